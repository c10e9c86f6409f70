"""A module's forward is another one for a while, and then what it was, own or the class's."""

from __future__ import annotations

import pytest
import torch

from halo_forge.policy.forwards import replaced_forwards


def test_modules_get_their_own_forward_back_even_after_an_error() -> None:
    plain, patched = torch.nn.Identity(), torch.nn.Identity()
    patched.forward = lambda x: x + 1
    one = torch.ones(1)
    with pytest.raises(ZeroDivisionError), replaced_forwards({each: lambda x: x * 10 for each in (plain, patched)}):
        assert plain(one) == patched(one) == 10
        with replaced_forwards({plain: lambda x: x * 100}):
            assert plain(one) == 100 and patched(one) == 10
        assert plain(one) == 10
        raise ZeroDivisionError
    assert plain(one) == 1 and "forward" not in plain.__dict__
    assert patched(one) == 2
