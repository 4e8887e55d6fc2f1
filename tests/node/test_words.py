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
TRACE = "".join(f'  File "launcher.py", line {number}, in run\n' for number in range(60))


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
        ("it begins\n⠋ pulls the manifest\npulling 6a07: 12% ▕██    ▏ 500 MB/4.7 GB\n", "it begins"),
        ("no model\n100 1234M  100 1234M    0     0   120M      0  0:00:10  0:00:10 --:--:--  121M\n", "no model"),
        ("no model\n  1200K .......... .......... .......... 12% 4.5M 3s\n", "no model"),
        ("10%\b\b\b20%\b\b\bdone", "done"),
        ("the disk is 95% full | quota reached", "the disk is 95% full | quota reached"),
        (f"{VLLM}{TRACE}RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{}}\n",
         "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"),
        ("bash: line 1: vllm: command not found\n(job ended)\n", "bash: line 1: vllm: command not found"),
        ("error: retrying\n" + "went on\n" * 20 + "driver is too old\n", "driver is too old"),
        ("thread 'main' panicked at src/main.rs:10:5:\nno such device\nnote: run with `RUST_BACKTRACE=1`\n",
         "thread 'main' panicked at src/main.rs:10:5: no such device"),
        ('!!!!!!! Segfault encountered !!!!!!!\n  File "<unknown>", line 0, in load\n',
         '!!!!!!! Segfault encountered !!!!!!! File "<unknown>", line 0, in load'),
        ("UserWarning: deprecated\nno weights\n", "no weights"),
        ("x" * 5000, "x" * (LONGEST - 1) + "…"),
    ],
)  # fmt: skip
def test_the_last_real_words_are_the_reason(said: str, words: str) -> None:
    assert last_words(said) == words
