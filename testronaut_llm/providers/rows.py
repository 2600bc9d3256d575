"""The rows: what is known of a provider beyond LiteLLM's own data, and the rule for every other name."""

from __future__ import annotations

from dataclasses import replace

from testronaut_llm.providers import litellm_data, probes
from testronaut_llm.providers.row import Probe, Provider


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _openai_form(name: str, base: str, *keys: str) -> Provider:
    """Returns a row in the OpenAI form, where LiteLLM takes a client of its own or breaks on the answers."""
    return Provider(name=name, key_variables=keys, base_variables=(f"{name.upper()}_API_BASE",), default_base=base)


ANTHROPIC_FIELDS = _names("top_k top_p service_tier inference_geo context_management container")
"""Of Anthropic's Messages API, less what this package sets itself. `metadata` is an argument of LiteLLM's own."""

ROWS = (
    Provider(
        name="openai",
        schema_dialect="openai",
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
        schema_dialect="azure",
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
    _openai_form("bigmodel", "https://open.bigmodel.cn/api/paas/v4", "BIGMODEL_API_KEY"),
    _openai_form("clf_ai_gateway", "https://api.clfaigateway.dev/v1", "CLF_AI_GATEWAY_API_KEY"),
    replace(_openai_form("lemonade", "http://localhost:8000/api/v1", "LEMONADE_API_KEY"), key_required=False),
)

ALIASES = {"ollama_chat": "ollama", "custom_openai": "openai", "cohere_chat": "cohere"}

_KEYS = {
    "ai21_chat": ("AI21_API_KEY",),
    "databricks": ("DATABRICKS_API_KEY", "DATABRICKS_TOKEN"),
    "datarobot": ("DATAROBOT_API_TOKEN",),
    "bedrock": ("AWS_BEARER_TOKEN_BEDROCK",),
    "fireworks_ai": ("FIREWORKS_API_KEY", "FIREWORKS_AI_API_KEY"),
    "friendliai": ("FRIENDLIAI_API_KEY", "FRIENDLI_TOKEN"),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "jina_ai": ("JINA_AI_API_KEY", "JINA_API_KEY"),
    "lambda_ai": ("LAMBDA_API_KEY",),
    "meta_llama": ("LLAMA_API_KEY",),
    "nvidia_nim": ("NVIDIA_NIM_API_KEY", "NVIDIA_API_KEY"),
    "perplexity": ("PERPLEXITY_API_KEY", "PERPLEXITYAI_API_KEY"),
    "qwen_ai_platform": ("QWEN_AI_PLATFORM_API_KEY", "DASHSCOPE_API_KEY"),
    "qwencloud": ("QWENCLOUD_API_KEY", "DASHSCOPE_API_KEY"),
    "together_ai": ("TOGETHER_API_KEY", "TOGETHERAI_API_KEY", "TOGETHER_AI_API_KEY"),
    "watsonx": ("WATSONX_API_KEY", "WX_API_KEY"),
}

BY_OPENAI_CLIENT: dict[str, str | None] = {
    "ai21": "https://api.ai21.com/studio/v1",
    "ai21_chat": "https://api.ai21.com/studio/v1",
    "aiml": "https://api.aimlapi.com/v1",
    "baseten": "https://inference.baseten.co/v1",
    "cerebras": "https://api.cerebras.ai/v1",
    "clarifai": "https://api.clarifai.com/v2/ext/openai/v1",
    "codestral": "https://codestral.mistral.ai/v1",
    "dashscope": "https://dashscope.aliyuncs.com/compatible-mode/v1",
    "deepinfra": "https://api.deepinfra.com/v1/openai",
    "docker_model_runner": "http://localhost:22088/engines/llama.cpp",
    "empower": "https://app.empower.dev/api/v1",
    "featherless_ai": "https://api.featherless.ai/v1",
    "friendliai": "https://api.friendli.ai/serverless/v1",
    "galadriel": "https://api.galadriel.com/v1",
    "github": "https://models.inference.ai.azure.com",
    "hyperbolic": "https://api.hyperbolic.xyz/v1",
    "inception": "https://api.inceptionlabs.ai/v1",
    "lambda_ai": "https://api.lambda.ai/v1",
    "litellm_proxy": None,
    "llamafile": "http://127.0.0.1:8080/v1",
    "lm_studio": "http://127.0.0.1:1234/v1",
    "meta_llama": "https://api.llama.com/compat/v1",
    "modelscope": "https://api-inference.modelscope.cn/v1",
    "moonshot": "https://api.moonshot.ai/v1",
    "morph": "https://api.morphllm.com/v1",
    "nebius": "https://api.studio.nebius.ai/v1",
    "novita": "https://api.novita.ai/v3/openai",
    "nscale": "https://inference.api.nscale.com/v1",
    "nvidia_nim": "https://integrate.api.nvidia.com/v1",
    "perplexity": "https://api.perplexity.ai",
    "qwen_ai_platform": "https://dashscope.aliyuncs.com/compatible-mode/v1",
    "qwencloud": "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
    "sambanova": "https://api.sambanova.ai/v1",
    "tencent": "https://tokenhub-intl.tencentcloudmaas.com/v1",
    "v0": "https://api.v0.dev/v1",
    "vercel_ai_gateway": "https://ai-gateway.vercel.sh/v1",
    "volcengine": "https://ark.cn-beijing.volces.com/api/v3",
    "wandb": "https://api.inference.wandb.ai/v1",
    "xinference": None,
    "zai": "https://api.z.ai/api/paas/v4",
}
"""Services that LiteLLM knows by its code: the OpenAI client that it takes must be told their endpoint."""

BY_HANDLER = _names("""
    a2a aiohttp_openai azure_ai bedrock bedrock_mantle bytez cometapi compactifai databricks datarobot deepseek
    edenai fal_ai fireworks_ai gdc gemini heroku hosted_vllm infinity jina_ai langflow langgraph minimax mistral
    nadir oci openrouter ovhcloud ragflow sagemaker_chat sagemaker_nova snowflake together_ai vertex_ai
    vertex_ai_beta voyage watsonx watsonx_text xai
""")
"""Services for which LiteLLM takes its `HTTPHandler`."""

_OPENAI_WIRE_BY_HANDLER = _names("""
    aiohttp_openai azure_ai bedrock_mantle cometapi compactifai databricks datarobot deepseek edenai fireworks_ai
    heroku hosted_vllm minimax mistral nadir openrouter ovhcloud ragflow together_ai xai
""")

EMBEDS_BY_OPENAI_CLIENT = _names("""
    azure_ai fireworks_ai litellm_proxy mistral nebius nvidia_nim together_ai wandb xinference
""")

_BASES = {
    **BY_OPENAI_CLIENT,
    "deepseek": "https://api.deepseek.com/beta",
    "fireworks_ai": "https://api.fireworks.ai/inference/v1",
    "mistral": "https://api.mistral.ai/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "together_ai": "https://api.together.ai/v1",
    "xai": "https://api.x.ai/v1",
}

_HOSTS = {"gemini": ("generativelanguage.googleapis.com",), "together_ai": ("api.together.xyz",)}

_TAKES_SCHEMAS = _names("""
    cerebras fireworks_ai gemini github groq hosted_vllm litellm_proxy llamafile lm_studio mistral nebius openrouter
    perplexity together_ai vertex_ai xai
""")

_KEYLESS = _names("""
    bedrock docker_model_runner hosted_vllm llamafile lm_studio oci sagemaker_chat sagemaker_nova vertex_ai
    vertex_ai_beta xinference
""")

_NEED_BASE = _names("azure_ai databricks hosted_vllm snowflake watsonx")

_NO_EXTRA_BODY = _names("aiohttp_openai bedrock")
_NO_EMBEDDING_EXTRA_BODY = _names("bedrock databricks gemini")
"""LiteLLM sends these a field `extra_body`, or drops it; seen on 1.110.2."""

_PROBES: dict[str, Probe] = {
    **dict.fromkeys(("bedrock", "sagemaker_chat", "sagemaker_nova"), probes.aws_credentials),
    **dict.fromkeys(("vertex_ai", "vertex_ai_beta"), probes.google_cloud),
}


def default_row(name: str) -> Provider:
    """Returns the row of a name without one of its own: by LiteLLM's data, by the tables above, else the OpenAI form.

    Where nothing is known but the name, no endpoint is: the file must give it, and LiteLLM's own way is not taken,
    since it might open a connection that is not ours.
    """
    service = litellm_data.services().get(name)
    known = service is not None or name in BY_OPENAI_CLIENT or name in BY_HANDLER
    by_handler = service is None and name in BY_HANDLER
    variable = name.upper().replace("-", "_")
    usual = (service.base_variable if service else None, f"{variable}_API_BASE")
    return Provider(
        name=name,
        litellm_prefix=name if known else "openai",
        wire="other" if by_handler and name not in _OPENAI_WIRE_BY_HANDLER else "openai",
        schema_dialect="strict" if name in _TAKES_SCHEMAS else "none",
        client="handler" if by_handler else "openai",
        embedding_client="handler" if known and name not in EMBEDS_BY_OPENAI_CLIENT else "openai",
        key_variables=(service.key_variable,) if service else _KEYS.get(name, (f"{variable}_API_KEY",)),
        base_variables=tuple(dict.fromkeys(filter(None, usual))),
        default_base=service.base if service else _BASES.get(name),
        hosts=_HOSTS.get(name, ()),
        extra=frozenset() if name in _NO_EXTRA_BODY else None,
        embedding_extra=frozenset() if name in _NO_EMBEDDING_EXTRA_BODY else None,
        required=("api_base",) if name in _NEED_BASE or not known else (),
        key_required=name not in _KEYLESS,
        probe=_PROBES.get(name),
    )
