"""Text that a model makes up itself: calibration that needs nobody's data, and so the baseline that federation has
to beat.
"""

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging


@torch.inference_mode()
def write_self_text(model_folder: Path, file: Path, *, sequences: int, length: int, seed: int) -> None:
    """Sample `sequences` texts of `length` tokens at temperature 1 from the begin token; write one a .jsonl line."""
    logging.disable_progress_bar()
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(model_folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(model_folder, local_files_only=True, dtype=torch.float32)
    start = torch.full((sequences, 1), tokenizer.bos_token_id)
    sampled = model.generate(
        start,
        attention_mask=torch.ones_like(start),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        max_new_tokens=length - 1,
        min_new_tokens=length - 1,
        pad_token_id=tokenizer.eos_token_id,
    )
    texts = tokenizer.batch_decode(sampled, skip_special_tokens=True)
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
