"""The rows: providers that need a word of their own, and the rule for all others that LiteLLM knows."""

from __future__ import annotations

from dataclasses import replace

from testronaut_llm.providers import litellm_names, probes
from testronaut_llm.providers.litellm_names import names
from testronaut_llm.providers.row import Probe, Provider


def _openai_form(name: str, base: str, *keys: str) -> Provider:
    """LiteLLM takes a client of its own here, or breaks on the answers; the OpenAI form goes through ours."""
    return Provider(name=name, key_variables=keys, base_variables=(f"{name.upper()}_API_BASE",), default_base=base)


ANTHROPIC_FIELDS = names("top_k top_p service_tier inference_geo context_management container")
"""Of Anthropic's Messages API, less what this package sets itself. `metadata` is an argument of LiteLLM's own."""

ROWS = (
    Provider(
        name="openai",
        key_variables=("OPENAI_API_KEY",),
        base_variables=("OPENAI_BASE_URL", "OPENAI_API_BASE"),
        default_base="https://api.openai.com/v1",
        generic=True,
        probe=probes.ollama_behind_openai,
    ),
    Provider(
        name="anthropic",
        litellm_prefix="anthropic",
        wire="anthropic",
        schema_dialect="anthropic",
        client="handler",
        key_variables=("ANTHROPIC_API_KEY",),
        base_variables=("ANTHROPIC_API_BASE", "ANTHROPIC_BASE_URL"),
        default_base="https://api.anthropic.com",
        extra=ANTHROPIC_FIELDS,
        embedding_extra=frozenset(),
    ),
    Provider(
        name="azure",
        litellm_prefix="azure",
        wire="azure",
        client="azure",
        key_variables=("AZURE_API_KEY", "AZURE_OPENAI_API_KEY"),
        base_variables=("AZURE_API_BASE", "AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_BASE"),
        version_variables=("AZURE_API_VERSION", "AZURE_OPENAI_API_VERSION", "OPENAI_API_VERSION"),
        hosts=("openai.azure.com", "cognitiveservices.azure.com", "services.ai.azure.com"),
        required=("api_base",),
    ),
    Provider(
        name="ollama",
        litellm_prefix="ollama_chat",  # `ollama/` is /api/generate with a prompt made by hand
        wire="ollama",
        schema_dialect="free",
        client="handler",
        embedding_client="none",
        key_variables=("OLLAMA_API_KEY",),
        base_variables=("OLLAMA_API_BASE", "OLLAMA_HOST"),
        default_base="http://127.0.0.1:11434",
        hosts=("ollama.com",),
        embedding_extra=names("options"),
        key_required=False,
        local=True,
        probe=probes.ollama,
    ),
    Provider(name="embedded", schema_dialect="free", key_required=False, local=True, probe=probes.embedded),
    _openai_form("groq", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    _openai_form("cohere", "https://api.cohere.ai/compatibility/v1", "COHERE_API_KEY", "CO_API_KEY"),
    replace(
        _openai_form("huggingface", "https://router.huggingface.co/v1", "HF_TOKEN", "HUGGINGFACE_API_KEY"),
        schema_dialect="none",
    ),
    replace(_openai_form("lemonade", "http://localhost:8000/api/v1", "LEMONADE_API_KEY"), key_required=False),
)

ALIASES = {"ollama_chat": "ollama", "custom_openai": "openai", "cohere_chat": "cohere"}

_KEYS = {
    "ai21_chat": ("AI21_API_KEY",),
    "apertis": ("STIMA_API_KEY",),
    "databricks": ("DATABRICKS_API_KEY", "DATABRICKS_TOKEN"),
    "datarobot": ("DATAROBOT_API_TOKEN",),
    "bedrock": ("AWS_BEARER_TOKEN_BEDROCK",),
    "fireworks_ai": ("FIREWORKS_API_KEY", "FIREWORKS_AI_API_KEY"),
    "friendliai": ("FRIENDLIAI_API_KEY", "FRIENDLI_TOKEN"),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "jina_ai": ("JINA_AI_API_KEY", "JINA_API_KEY"),
    "lambda_ai": ("LAMBDA_API_KEY",),
    "meta_llama": ("LLAMA_API_KEY",),
    "nano-gpt": ("NANOGPT_API_KEY",),
    "nvidia_nim": ("NVIDIA_NIM_API_KEY", "NVIDIA_API_KEY"),
    "perplexity": ("PERPLEXITY_API_KEY", "PERPLEXITYAI_API_KEY"),
    "qwen_ai_platform": ("QWEN_AI_PLATFORM_API_KEY", "DASHSCOPE_API_KEY"),
    "qwencloud": ("QWENCLOUD_API_KEY", "DASHSCOPE_API_KEY"),
    "scaleway": ("SCW_SECRET_KEY",),
    "scx-ai": ("SCX_API_KEY",),
    "tensormesh": ("TENSORMESH_INFERENCE_API_KEY",),
    "together_ai": ("TOGETHER_API_KEY", "TOGETHERAI_API_KEY", "TOGETHER_AI_API_KEY"),
    "veniceai": ("VENICE_AI_API_KEY",),
    "watsonx": ("WATSONX_API_KEY", "WX_API_KEY"),
}

_BASES = {
    **litellm_names.OPENAI_CLIENT,
    "deepseek": "https://api.deepseek.com/beta",
    "fireworks_ai": "https://api.fireworks.ai/inference/v1",
    "mistral": "https://api.mistral.ai/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "together_ai": "https://api.together.ai/v1",
    "xai": "https://api.x.ai/v1",
}

_HOSTS = {"gemini": ("generativelanguage.googleapis.com",), "together_ai": ("api.together.xyz",)}

_TAKES_SCHEMAS = names("""
    cerebras fireworks_ai gemini github groq hosted_vllm litellm_proxy llamafile lm_studio mistral nebius openrouter
    perplexity together_ai vertex_ai xai
""")

_KEYLESS = names("""
    bedrock docker_model_runner hosted_vllm llamafile lm_studio oci sagemaker_chat sagemaker_nova vertex_ai
    vertex_ai_beta xinference
""")

_NEED_BASE = names("azure_ai databricks hosted_vllm snowflake watsonx")

_NO_EXTRA_BODY = names("aiohttp_openai bedrock")
_NO_EMBEDDING_EXTRA_BODY = names("bedrock databricks gemini")
"""LiteLLM sends these a field `extra_body`, or drops it; seen on 1.110.2."""

_PROBES: dict[str, Probe] = {
    **dict.fromkeys(("bedrock", "sagemaker_chat", "sagemaker_nova"), probes.aws_credentials),
    **dict.fromkeys(("vertex_ai", "vertex_ai_beta"), probes.google_cloud),
}


def default_row(name: str) -> Provider:
    """The row of a provider that LiteLLM knows and we know little about: `<NAME>_API_KEY`, its own endpoint."""
    variable = name.upper().replace("-", "_")
    by_handler = name in litellm_names.HANDLER_CLIENT
    return Provider(
        name=name,
        litellm_prefix=name,
        wire="other" if by_handler and name not in litellm_names.OPENAI_WIRE_BY_HANDLER else "openai",
        schema_dialect="strict" if name in _TAKES_SCHEMAS else "none",
        client="handler" if by_handler else "openai",
        embedding_client="openai" if name in litellm_names.OPENAI_CLIENT_FOR_EMBEDDINGS else "handler",
        key_variables=_KEYS.get(name, (f"{variable}_API_KEY",)),
        base_variables=(f"{variable}_API_BASE",),
        default_base=_BASES.get(name),
        hosts=_HOSTS.get(name, ()),
        extra=frozenset() if name in _NO_EXTRA_BODY else None,
        embedding_extra=frozenset() if name in _NO_EMBEDDING_EXTRA_BODY else None,
        required=("api_base",) if name in _NEED_BASE else (),
        key_required=name not in _KEYLESS,
        probe=_PROBES.get(name),
    )
