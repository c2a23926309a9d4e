"""What may leave this silo, who agreed to it, and what did leave: the page to begin with for whoever approves of it.

Read in this order:

1. `policy`: what the institution decided in policy.yaml, and how every plan is held against it before anything else.
2. `plan_in_words`: what a person reads before approving a plan; `expected_traffic` counts its bytes.
3. `ledger`: what was released before, and which further release is refused because of it (docs/protocol.md, 2.5).
4. `state_store`: where the ledger, the decisions and what this silo said in every round lie on disk before they count.
5. `accusations`: rounds that ended after this silo had signed what they opened, as one with a forged sum would.
6. `audit_log`: what was decided and what left, in lines that nobody can alter unseen.

Nothing here computes with text or speaks to the network: `silo_agent/rounds` asks these files first, and does the rest.
"""
