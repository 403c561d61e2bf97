"""What the processes of a data-parallel run must have in common before the first update.

From then on they stay equal, because gradients are averaged before the method sees them. A loop of one's own calls
`agree_on_weights` before `method.setup` and `agree_on_state` after it, with the same seed in all processes.
"""

from __future__ import annotations

from torch import distributed, nn

from finetune_reg.building_blocks.random_replay import several_processes
from finetune_reg.method import FineTuningMethod


def agree_on_weights(model: nn.Module) -> None:
    """Give all processes the weights of the first: a task head that each has drawn by itself differs until then."""
    if several_processes():
        for tensor in [*model.parameters(), *model.buffers()]:
            distributed.broadcast(tensor.detach(), src=0)


def agree_on_state(method: FineTuningMethod) -> None:
    """Give all processes the state of the method in the first: what each has measured by itself may be rounded."""
    if several_processes():
        states = [{name: tensor.cpu() for name, tensor in method.state_dict().items()}]
        distributed.broadcast_object_list(states, src=0)
        method.load_state_dict(states[0])
