"""Compares token estimates, and those of `litellm.token_counter`, with the charges of providers.

    python benchmarks/token_estimates.py PATH [--families]

PATH is a file of JSON lines, one for each prompt, with the tokens that were charged:
`{"provider", "model", "messages": [{"role", "content"}], "prompt_tokens"}`. A prompt that occurs twice
for a model counts once. There are three estimates:

- first: before anything was learned;
- learned: after the counter has seen the other prompts of the same family;
- litellm: `litellm.token_counter` of the installed version, offline.

Nothing leaves the machine, and nothing of the file is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.money.token_counter import KEPT, TokenCounter, family_of, memory_key
from testronaut_llm.records import Message, Usage

PROVIDERS = {"ollama_openai": "ollama", "local_openai": "openai"}
ROLES = {"model": "assistant", "developer": "system", "input": "user"}


@dataclass(frozen=True)
class Row:
    """A prompt and its charged tokens."""

    provider: str
    model: ModelConfig
    messages: tuple[Message, ...]
    embedding: bool
    charged: int

    @property
    def family(self) -> str:
        """Key of the prompts that are learned together."""
        return memory_key(self.model, family_of(self.model)) + (" (embedding)" if self.embedding else "")


def read(path: Path) -> Iterator[Row]:
    """Returns the distinct prompts of a file."""
    seen = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        identity = (row["provider"], row["model"], json.dumps(row["messages"]))
        if identity in seen or not row["prompt_tokens"]:
            continue
        seen.add(identity)
        provider = PROVIDERS.get(row["provider"], row["provider"])
        reference = f"{provider}/{row['model']}"
        base_model = row["model"] if provider == "azure" else None
        yield Row(
            provider=row["provider"],
            model=ModelConfig(alias=reference, model=reference, base_model=base_model),
            messages=tuple(
                Message(role=ROLES.get(m["role"], m["role"]), content=m["content"]) for m in row["messages"]
            ),
            embedding=any(m["role"] == "input" for m in row["messages"]),
            charged=row["prompt_tokens"],
        )


def estimate(counter: TokenCounter, row: Row) -> int:
    """Returns the current estimates."""
    return counter.estimate(row.model, row.messages, embedding=row.embedding)


def learned(rows: list[Row], left_out: Row, folder: Path) -> int:
    """Returns the estimates after the other prompts of the family were seen."""
    counter = TokenCounter(folder / "tokens.jsonl")
    for row in [row for row in rows if row is not left_out][-KEPT:]:
        counter.observe("benchmark", row.model, estimate(counter, row), Usage(prompt_tokens=row.charged))
    return estimate(counter, left_out)


def litellm_counts(rows: list[Row]) -> list[int]:
    """Returns the counts of LiteLLM's own counter."""
    os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_MODE="PRODUCTION")
    import litellm

    litellm.disable_hf_tokenizer_download = True
    litellm.suppress_debug_info = True
    return [
        litellm.token_counter(
            model=row.model.base_model or row.model.name,
            messages=[{"role": m.role, "content": m.content} for m in row.messages],
        )
        for row in rows
    ]


def quantiles(errors: list[float]) -> str:
    """Returns median and 90th percentile, in percent."""
    ninetieth = sorted(errors)[min(len(errors) - 1, int(len(errors) * 0.9))]
    return f"{statistics.median(errors):7.1%} {ninetieth:7.1%}"


def table(groups: dict[str, list[tuple[float, float, float]]]) -> str:
    """Prints a line for each group."""
    lines = [f"{'':28} {'n':>4}  {'first':>15}  {'learned':>15}  {'litellm':>15}"]
    lines.append(f"{'':28} {'':>4}" + f"  {'median':>7} {'90 %':>7}" * 3)
    for name, errors in groups.items():
        columns = "  ".join(quantiles(list(column)) for column in zip(*errors, strict=True))
        lines.append(f"{name:28} {len(errors):>4}  {columns}")
    return "\n".join(lines)


def main() -> None:
    """Reads the file and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="file of JSON lines")
    parser.add_argument("--families", action="store_true", help="a line for each family instead of each provider")
    arguments = parser.parse_args()
    rows = list(read(arguments.path))
    by_family = defaultdict(list)
    for row in rows:
        by_family[row.family].append(row)
    groups = defaultdict(list)
    for row, theirs in zip(rows, litellm_counts(rows), strict=True):
        with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
            ours = (
                estimate(TokenCounter(Path(first, "tokens.jsonl")), row),
                learned(by_family[row.family], row, Path(second)),
            )
        errors = tuple(abs(count - row.charged) / row.charged for count in (*ours, theirs))
        groups[row.family if arguments.families else row.provider].append(errors)
    print(table(groups))


if __name__ == "__main__":
    main()
