"""Fine-tune by every choice in turn, under bfloat16: started by torchrun, whose start would cost more than the steps.

``torchrun … -m tests.finetune_all CONFIGS SETTINGS OUT CHOICE…``, the first two as JSON.
"""

import json
import sys
from pathlib import Path

import torch.distributed as dist
from monai.bundle import ConfigWorkflow


def main(configs: str, settings: str, out: str, *choices: str) -> None:
    dist.init_process_group("gloo")
    for choice in choices:
        options = {**json.loads(settings), "output_dir": str(Path(out) / choice), "perceptual": choice}
        workflow = ConfigWorkflow(json.loads(configs), workflow_type="train", logging_file=False, **options)
        workflow.initialize()
        workflow.run()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
