"""One update by EntropyTrainer in as many processes as torchrun starts; the first writes the weights after it.

python -m torch.distributed.run --nproc-per-node 2 -m tests.huggingface.two_processes REDUCTION FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.huggingface.test_trainer import updated_by

if __name__ == "__main__":
    torch.set_num_threads(1)
    reduction, folder = sys.argv[1], Path(sys.argv[2])
    weights = updated_by(folder, reduction, batch=8 // int(os.environ["WORLD_SIZE"]))
    if os.environ["RANK"] == "0":
        save_file({name: tensor.clone() for name, tensor in weights.items()}, folder / "weights.safetensors")
    torch.distributed.destroy_process_group()
