"""Choosing the backend, and living without the native part."""

import subprocess
import sys
import textwrap

import pytest
import torch

import fastinit
from fastinit.config import config
from fastinit.kernels.native import is_native


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_backend_is_function_and_context_manager():
    assert is_native()
    with fastinit.backend("torch"):
        assert not is_native()
        with fastinit.backend("native"):
            assert is_native()
        assert not is_native()
    fastinit.backend("torch")
    assert not is_native()
    fastinit.backend("auto")
    assert is_native()


def test_unknown_backend():
    with pytest.raises(ValueError, match=r"'auto', 'native', 'torch', got 'cuda'"):
        fastinit.backend("cuda")
    done = run("import fastinit", FASTINIT_BACKEND="fast")
    assert "FASTINIT_BACKEND must be one of 'auto', 'native', 'torch', got 'fast'" in done.stderr


def test_environment_chooses():
    code = "import fastinit.kernels.native as b; print(b.is_native())"
    assert run(code, FASTINIT_BACKEND="torch").stdout == "False\n"
    assert run(code, FASTINIT_BACKEND="auto").stdout == "True\n"


def test_show_config(capsys):
    fastinit.show_config()
    printed = capsys.readouterr().out
    for value in config().values():
        assert value in printed
    assert f"threads: {torch.get_num_threads()}" in printed
    done = run("import runpy; runpy.run_module('fastinit', run_name='__main__')")
    assert f"fastinit: {fastinit.__version__}" in done.stdout


def test_isa_from_the_environment():
    code = "from fastinit import _C; print(_C.default_isa())"
    assert run(code, FASTINIT_ISA="scalar").stdout == "scalar\n"
    done = run(code, FASTINIT_ISA="sse9")
    assert "FASTINIT_ISA='sse9' is not available on this machine" in done.stderr


def test_without_the_native_part():
    """Imports, warns once, fills through torch, says why, and refuses `native`."""
    done = run(
        """
        import sys, warnings
        sys.modules["fastinit._C"] = None
        import fastinit, torch
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            torch.manual_seed(0)
            x = fastinit.init.normal_(torch.empty(9))
            fastinit.init.constant_(torch.empty(9), 1.0)
        assert len(found) == 1 and "not installed" in str(found[0].message), found
        torch.manual_seed(0)
        assert torch.equal(x, torch.nn.init.normal_(torch.empty(9)))
        fastinit.show_config()
        try:
            fastinit.backend("native")
        except RuntimeError as error:
            print(error)
        """
    )
    assert done.returncode == 0, done.stderr
    assert "torch.nn.init is used instead" in done.stdout
    assert "the native kernels are not installed" in done.stdout
    assert "these are the sources, which stand before an installed package" in done.stdout


def test_a_context_can_be_entered_again():
    chosen = fastinit.backend("torch")
    for _ in range(2):
        with chosen:
            assert not is_native()
        assert is_native()
    assert repr(chosen) == "fastinit.backend('torch')"


def test_first_use_under_any_context():
    code = """
    import torch, threading
    torch.set_default_device("meta")
    import fastinit
    fastinit.init.normal_(torch.empty(3, device="cpu"))
    def inferring():
        with torch.inference_mode():
            fastinit.init.normal_(torch.empty(3, device="cpu"))
        fastinit.init.normal_(torch.empty(3, device="cpu"))
        print("done")
    thread = threading.Thread(target=inferring)
    thread.start()
    thread.join()
    """
    assert run(code).stdout == "done\n"
