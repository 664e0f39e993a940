"""Files of compiled code: whole, one's own, and never the reason why a process dies."""

import ctypes
import os
import subprocess
import sys

import pytest

from nlme_torch.solve.kernel import build as module
from nlme_torch.solve.kernel.build import BuildError, build, compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
TEXT = 'extern "C" int answer() { return 41 + 1; }\n'


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NLME_TORCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


def libraries(folder):
    return sorted(folder.glob("*.so"))


def test_a_library_is_compiled_once_into_a_folder_of_ones_own(cache):
    assert build(TEXT).answer() == 42
    (library,) = libraries(cache)
    written = library.stat().st_mtime_ns
    assert build(TEXT).answer() == 42
    assert [library.stat().st_mtime_ns for library in libraries(cache)] == [written]
    assert cache.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "damage", [lambda code: code[: len(code) // 2], lambda code: bytes(len(code)), lambda code: b""]
)
def test_damaged_libraries_are_compiled_again(cache, damage):
    text = TEXT + f"// {damage(b'ab')!r}\n"
    folder = module._own_folder()
    whole = module._compile(
        text, folder, module.hashlib.sha256((module._fingerprint() + text).encode()).hexdigest()[:24]
    )
    code = whole.read_bytes()
    whole.unlink()
    whole.write_bytes(damage(code))
    whole.chmod(0o700)
    assert build(text).answer() == 42
    assert [library.read_bytes() for library in libraries(cache)] == [code]


def test_a_folder_that_others_may_write_is_not_trusted(cache):
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    text = TEXT + "// open\n"
    planted = cache / "x.so"
    planted.write_bytes(b"\x7fELF")
    assert build(text).answer() == 42
    assert libraries(cache) == [planted]


def test_a_folder_of_another_user_is_not_trusted(cache, monkeypatch):
    cache.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(module.os, "getuid", lambda: os.stat(cache).st_uid + 1)
    with pytest.raises(PermissionError, match="another user"):
        module._own_folder()


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("NLME_TORCH_CACHE", str(blocked))
    assert build(TEXT + "// blocked\n").answer() == 42


def test_a_compiler_that_fails_is_named_and_not_the_model(cache, monkeypatch, caplog):
    with pytest.raises(BuildError, match=r"compiler .* failed .*no fault of the model"):
        build("this is no C++")
    monkeypatch.setattr(module, "compiler", lambda: (str(cache / "nowhere"),))
    with pytest.raises(BuildError, match="cannot be started"):
        build(TEXT + "// none\n")


def test_no_space_is_named(cache, monkeypatch):
    def full(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_compile", full)
    with pytest.raises(BuildError, match=r"kept nowhere: .*No space left on device.*free disk space"):
        build(TEXT + "// full\n")


def test_two_processes_may_compile_the_same_at_once(cache):
    program = f"from nlme_torch.solve.kernel.build import build; print(build({TEXT + '// both'!r}).answer())"
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in running] == ["42", "42"]
    assert len(libraries(cache)) == 1
    assert ctypes.CDLL(str(libraries(cache)[0])).answer() == 42


def test_the_compiler_is_the_one_named_then_that_of_the_path_then_that_of_a_package(monkeypatch, caplog):
    found = {"my-c++": "/there/my-c++", "clang++": "/there/clang++"}
    packages = {"ziglang": object()}
    monkeypatch.setattr(module.shutil, "which", found.get)
    monkeypatch.setattr(module.importlib.util, "find_spec", packages.get)
    choose = module.compiler.__wrapped__
    monkeypatch.setenv("CXX", "my-c++")
    assert choose() == ("/there/my-c++",)
    monkeypatch.delenv("CXX")
    assert choose() == ("/there/clang++",)
    found.clear()
    assert choose()[1:] == ("-m", "ziglang", "c++")
    packages.clear()
    with caplog.at_level("WARNING"):
        assert choose() is None
    assert "pip install nlme_torch[compiler]" in caplog.text


def test_clang_is_not_asked_for_passes_of_gcc(monkeypatch):
    monkeypatch.setattr(module, "_version", lambda: "clang version 20.1.0")
    assert "-O3" in module._flags() and "-fipa-cp-clone" not in module._flags()
    monkeypatch.setattr(module, "_version", lambda: "g++ (GCC) 12.2.0")
    assert "-fipa-cp-clone" in module._flags()
