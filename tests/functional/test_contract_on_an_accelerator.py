"""The contract, again, on the way that tensors of an accelerator take: that of a CPU is another."""

import pytest
from test_contract_bounds_zero_nan import *  # noqa: F403
from test_contract_gradients import *  # noqa: F403
from test_contract_losses import *  # noqa: F403
from test_contract_precision import *  # noqa: F403
from test_contract_scale import *  # noqa: F403

# What is saved there is float64: that test counts what a CPU saves.
del test_what_is_saved_for_backward  # noqa: F821

pytestmark = pytest.mark.usefixtures("accelerated")
