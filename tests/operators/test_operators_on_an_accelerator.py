"""The operators of fields, and Jacobians of all, again, on the way that tensors of an accelerator take."""

import pytest
from test_operators_fields import *  # noqa: F403
from test_transforms import test_jacobians  # noqa: F401

# Counts a CPU's.
del test_launches_of_the_torch_form  # noqa: F821

pytestmark = pytest.mark.usefixtures("accelerated")
