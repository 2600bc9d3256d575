"""Rows' further looks at the world: is the server up, is the model there? Quick, and never a paid call."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from testronaut_llm.providers import endpoint
from testronaut_llm.providers.row import Missing, Present

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig

_AWS_FILES = {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"}
_AWS_SIGNS = (
    "AWS_BEARER_TOKEN_BEDROCK",
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


def ollama(model: ModelConfig) -> Missing | Present | None:
    """Does the server answer, and does it have the model?"""
    from testronaut_llm.local.ollama_models import ollama_missing

    return ollama_missing(model)


def embedded(model: ModelConfig) -> Missing | Present | None:
    """Is the runner installed, and the model in the store?"""
    from testronaut_llm.local.local_provider import embedded_missing

    return embedded_missing(model)


def ollama_behind_openai(model: ModelConfig) -> Missing | None:
    """Ollama's OpenAI form cannot set the context length, and cuts longer prompts without a word."""
    if not model.api_base or model.num_ctx or model.context_window:
        return None
    ours = {endpoint.ollama_url(os.environ.get("OLLAMA_HOST", "").strip()), "http://127.0.0.1:11434"}
    asked = endpoint.ollama_url(model.api_base.replace("//localhost", "//127.0.0.1"))
    if "/".join(asked.split("/")[:3]) not in ours:
        return None
    return Missing(
        "its api_base is Ollama's OpenAI form, which cannot set the context length and cuts longer prompts silently",
        f"write `model: ollama/{model.name}` without api_base, "
        f"or `context_window:` with the tokens that the server really takes",
    )


def aws_credentials(model: ModelConfig) -> Missing | None:  # noqa: ARG001 - every probe is asked with its model
    """None unless botocore can find nothing to sign with; only the network knows of an instance's role."""
    files = (os.environ.get(name) or default for name, default in _AWS_FILES.items())
    if any(os.environ.get(name) for name in _AWS_SIGNS) or any(map(os.path.exists, map(os.path.expanduser, files))):
        return None
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() != "true":
        return None
    return Missing("no AWS credentials", "aws configure, or export AWS_BEARER_TOKEN_BEDROCK=<your key>")


def google_cloud(model: ModelConfig) -> Missing | None:  # noqa: ARG001 - every probe is asked with its model
    """Is a project named?"""
    if os.environ.get("VERTEXAI_PROJECT"):
        return None
    return Missing("VERTEXAI_PROJECT is not set", "export VERTEXAI_PROJECT=<project> VERTEXAI_LOCATION=<region>")
