"""The contract, again, on the way that tensors of an accelerator take: that of a CPU is another."""

import pytest
from test_contract_bounds_zero_nan import *  # noqa: F403
from test_contract_gradients import *  # noqa: F403
from test_contract_losses import *  # noqa: F403
from test_contract_precision import *  # noqa: F403
from test_contract_scale import *  # noqa: F403

pytestmark = pytest.mark.usefixtures("accelerated")
