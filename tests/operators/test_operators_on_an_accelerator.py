"""The operators, again, on the way that tensors of an accelerator take."""

import pytest
from test_operators_fields import *  # noqa: F403
from test_operators_losses import *  # noqa: F403
from test_transforms import *  # noqa: F403

pytestmark = pytest.mark.usefixtures("accelerated")
