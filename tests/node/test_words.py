"""Of all that an engine prints, the reason why it ended is what a person would have looked for."""

import pytest

from tokenstorm.node.words import LONGEST, last_words

BAR = "Loading safetensors checkpoint shards: {}% Completed | {}/4 [00:0{}<00:03,  1.20s/it]"
BARS = "\r".join(BAR.format(25 * done, done, done) for done in range(5))
VLLM = """\
(EngineCore pid=7) ERROR 11-27 10:00:00 [core.py:708] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-27 10:00:00 [core.py:708]   File "core.py", line 1, in run
(EngineCore pid=7) ERROR 11-27 10:00:00 [core.py:708] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB
[rank0]:[W1127 10:00:01 ProcessGroupNCCL.cpp:1538] Warning: WARNING: destroy_process_group() was not called
"""


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("", ""),
        ("one\ntwo\n\n", "two"),
        ("no model here\n" + BARS, "no model here"),
        (BARS, ""),
        ("loads\r\nready\r\n", "ready"),
        ("10%\r20%\rdone with it", "done with it"),
        ("it is so\n 37%|███▋      | 37/100 [00:01<00:02, 30.5it/s]\n12it [00:03, 3.9it/s]\n", "it is so"),
        ("a file\nmodel.bin: 1.2G/4.0G [00:10<00:20, 120MB/s]", "a file"),
        ("pulls\n   ━━━━━━━━━━━━ 12.3/45.6 MB 3.2 MB/s eta 0:00:11\n[=========>          ]\n42 %\n", "pulls"),
        ("\x1b[1;31mno GPU\x1b[0m is here\x1b[K\n\x1b[2K\x1b[1A\n", "no GPU is here"),
        ("\x1b]0;title\x07the words\n-------\n***\n", "the words"),
        (VLLM, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"),
        ("ValueError: first\nRuntimeError: then\nresource_tracker: leaked shared_memory\n", "RuntimeError: then"),
        ("ValidationError: 1 error for Config\n  model\n    is gated\nbye\n", "ValidationError: 1 error for Config model is gated"),
        ("AssertionError\n", "AssertionError"),
        ("bash: line 1: vllm: command not found\n(job ended)\n", "bash: line 1: vllm: command not found"),
        ("error: retrying\n" + "went on\n" * 20 + "driver is too old\n", "driver is too old"),
        ("UserWarning: deprecated\nno weights\n", "no weights"),
        ("x" * 5000, "x" * (LONGEST - 1) + "…"),
    ],
)  # fmt: skip
def test_the_last_real_words_are_the_reason(said: str, words: str) -> None:
    assert last_words(said) == words
