"""tiny_model.py FOLDER: a two-layer Llama with random weights and a tokenizer of its own, from no hub. Runs in the
engine's environment."""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = 4096
EOS, PAD = "<eos>", "<pad>"
CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS, special_tokens=[EOS, PAD], initial_alphabet=alphabet, show_progress=False
    )
    texts = (path.read_text(encoding="utf-8") for path in sorted(Path(json.__file__).parents[1].glob("*.py")))
    tokens.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token=EOS, bos_token=EOS, pad_token=PAD)
    fast.chat_template = CHAT
    fast.save_pretrained(folder)
    said = folder / "tokenizer_config.json"  # newer versions name a class that older readers refuse
    said.write_text(json.dumps({**json.loads(said.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}))
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    main()
