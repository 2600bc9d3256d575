"""The provider names that LiteLLM 1.106.2 knows, sorted by the client object that its dispatch takes.

Kept as data so that a misspelt prefix gets its closest name without importing LiteLLM. Found by
calling each name with each client on a transport that answers nothing else; a test compares the
names with LiteLLM's own list and the kinds with what it does.
"""

from __future__ import annotations


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


OPENAI_CLIENT: dict[str, str | None] = {
    "abliteration": "https://api.abliteration.ai/v1",
    "ai21": "https://api.ai21.com/studio/v1",
    "ai21_chat": "https://api.ai21.com/studio/v1",
    "aihubmix": "https://aihubmix.com/v1",
    "aiml": "https://api.aimlapi.com/v1",
    "apertis": "https://api.stima.tech/v1",
    "assemblyai": "https://llm-gateway.assemblyai.com/v1",
    "baseten": "https://inference.baseten.co/v1",
    "cerebras": "https://api.cerebras.ai/v1",
    "charity_engine": "https://api.charityengine.services/remotejobs/v2/inference",
    "chutes": "https://llm.chutes.ai/v1",
    "clarifai": "https://api.clarifai.com/v2/ext/openai/v1",
    "codestral": "https://codestral.mistral.ai/v1",
    "cognition": "https://api.cognition.ai/v1",
    "cortecs": "https://api.cortecs.ai/v1",
    "crusoe": "https://managed-inference-api-proxy.crusoecloud.com/v1",
    "custom_openai": None,
    "darkbloom": "https://api.darkbloom.dev/v1",
    "dashscope": "https://dashscope.aliyuncs.com/compatible-mode/v1",
    "deepinfra": "https://api.deepinfra.com/v1/openai",
    "docker_model_runner": "http://localhost:22088/engines/llama.cpp",
    "empiriolabs": "https://api.empiriolabs.ai/v1",
    "empower": "https://app.empower.dev/api/v1",
    "featherless_ai": "https://api.featherless.ai/v1",
    "friendliai": "https://api.friendli.ai/serverless/v1",
    "galadriel": "https://api.galadriel.com/v1",
    "github": "https://models.inference.ai.azure.com",
    "gmi": "https://api.gmi-serving.com/v1",
    "helicone": "https://ai-gateway.helicone.ai",
    "hyperbolic": "https://api.hyperbolic.xyz/v1",
    "inception": "https://api.inceptionlabs.ai/v1",
    "lambda_ai": "https://api.lambda.ai/v1",
    "libertai": "https://api.libertai.io/v1",
    "litellm_proxy": None,
    "llamafile": "http://127.0.0.1:8080/v1",
    "llamagate": "https://api.llamagate.dev/v1",
    "lm_studio": "http://127.0.0.1:1234/v1",
    "meta": "https://api.meta.ai/v1",
    "meta_llama": "https://api.llama.com/compat/v1",
    "modelscope": "https://api-inference.modelscope.cn/v1",
    "moonshot": "https://api.moonshot.ai/v1",
    "morph": "https://api.morphllm.com/v1",
    "nano-gpt": "https://nano-gpt.com/api/v1",
    "nebius": "https://api.studio.nebius.ai/v1",
    "neosantara": "https://api.neosantara.xyz/v1",
    "novita": "https://api.novita.ai/v3/openai",
    "nscale": "https://inference.api.nscale.com/v1",
    "nvidia_nim": "https://integrate.api.nvidia.com/v1",
    "openai": "https://api.openai.com/v1",
    "parasail": "https://api.parasail.io/v1",
    "perplexity": "https://api.perplexity.ai",
    "pinstripes": "https://pinstripes.io/v1",
    "poe": "https://api.poe.com/v1",
    "prism": "https://api.prisminference.com/v1",
    "publicai": "https://api.publicai.co/v1",
    "qwen_ai_platform": "https://dashscope.aliyuncs.com/compatible-mode/v1",
    "qwencloud": "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
    "reka": "https://api.reka.ai/v1",
    "sail": "https://api.sailresearch.com/v1",
    "sambanova": "https://api.sambanova.ai/v1",
    "sarvam": "https://api.sarvam.ai/v1",
    "scaleway": "https://api.scaleway.ai/v1",
    "scx-ai": "https://api.scx.ai/v1",
    "synthetic": "https://api.synthetic.new/openai/v1",
    "tencent": "https://tokenhub-intl.tencentcloudmaas.com/v1",
    "tensormesh": "https://serverless.tensormesh.ai/v1",
    "v0": "https://api.v0.dev/v1",
    "veniceai": "https://api.venice.ai/api/v1",
    "vercel_ai_gateway": "https://ai-gateway.vercel.sh/v1",
    "volcengine": "https://ark.cn-beijing.volces.com/api/v3",
    "wandb": "https://api.inference.wandb.ai/v1",
    "xiaomi_mimo": "https://api.xiaomimimo.com/v1",
    "xinference": None,
    "zai": "https://api.z.ai/api/paas/v4",
}
"""With the endpoint, which such a client must be told; None where only the user knows it."""

HANDLER_CLIENT = names("""
    a2a aiohttp_openai anthropic azure_ai bedrock bedrock_mantle bytez cometapi compactifai databricks datarobot
    deepseek edenai fal_ai fireworks_ai gdc gemini groq heroku hosted_vllm infinity jina_ai langflow langgraph minimax
    mistral nadir oci ollama ollama_chat openrouter ovhcloud ragflow sagemaker_chat sagemaker_nova snowflake
    together_ai vertex_ai vertex_ai_beta voyage watsonx watsonx_text xai
""")

OPENAI_WIRE_BY_HANDLER = names("""
    aiohttp_openai azure_ai bedrock_mantle cometapi compactifai databricks datarobot deepseek edenai fireworks_ai groq
    heroku hosted_vllm minimax mistral nadir openrouter ovhcloud ragflow together_ai xai
""")

OPENAI_CLIENT_FOR_EMBEDDINGS = names("""
    azure_ai fireworks_ai litellm_proxy mistral nebius nvidia_nim openai together_ai wandb xinference
""")

OWN_CLIENT = names("""
    amazon_nova anthropic_text chatgpt cloudflare cohere cohere_chat custom gigachat github_copilot gradient_ai
    huggingface lemonade maritalk nlp_cloud oobabooga petals predibase replicate sagemaker sap
    text-completion-codestral triton vllm
""")
"""Reached through a client (or a log-in) of LiteLLM's own, whatever client it is given."""

NO_CHAT = names("""
    a2a_agent auto_router aws_polly aws_textract azure_speech black_forest_labs cursor deepgram dotprompt elevenlabs
    humanloop langfuse litellm_agent manus milvus mongodb nvidia_riva openai_like pg_vector recraft reducto runwayml
    s3_vectors soniox stability strands_decider text-completion-inception text-completion-openai topaz transcribe
    typesafe valkey
""")
"""Speech, images, stores, agents and legacy completions: no chat and no embeddings that we can ask for."""
