"""Where engines keep models and what they compiled, unless somebody says otherwise: in the base path, not at home.

Homes of clusters are small, and not in every container.
"""

from dataclasses import replace
from pathlib import PurePosixPath

from tokenstorm.config.profile import Profile

from .launch import Launch

_FOLDERS = {
    "HF_HOME": "huggingface",
    "XDG_CACHE_HOME": "xdg",
    "VLLM_CACHE_ROOT": "vllm",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "SGLANG_DG_CACHE_DIR": "deep_gemm",
    "DG_JIT_CACHE_DIR": "deep_gemm",
    "TVM_FFI_CACHE_DIR": "tvm_ffi",
    "NUMBA_CACHE_DIR": "numba",
    "CUDA_CACHE_PATH": "cuda",
    "MIOPEN_USER_DB_PATH": "miopen",
    "MIOPEN_CUSTOM_CACHE_DIR": "miopen",
    "SYCL_CACHE_DIR": "sycl",
}
"""Of vLLM, SGLang, PyTorch, Triton, FlashInfer, DeepGEMM, CUDA, ROCm and oneAPI; the rest follows XDG_CACHE_HOME."""


def at_site(launch: Launch, profile: Profile) -> Launch:
    """The service with the site's GPUs, and its caches in the base path. On a user's own machine they stay where they are.

    With `offline` HF_HOME does, too: nothing could be loaded into another.
    """
    launch = replace(launch, gpu_vendor=profile.gpu_vendor)
    if profile.scheduler == "local":
        return launch
    known = {**profile.environment, **launch.environment, **({"HF_HOME": ""} if profile.offline else {})}
    root = profile.base_path / "cache"
    folders = {name: str(root / folder) for name, folder in _FOLDERS.items() if name not in known}
    return replace(launch, caches=folders)


def cache_folders(launch: Launch, profile: Profile) -> list[PurePosixPath]:
    """What a container has to see: the caches' folder, and those that somebody named."""
    named = {**profile.environment, **launch.environment}
    paths = [PurePosixPath(named[name]) for name in _FOLDERS if named.get(name, "").startswith("/")]
    return [*([profile.base_path / "cache"] if launch.caches else []), *paths]
