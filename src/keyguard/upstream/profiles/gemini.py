"""Google's Gemini API, and the same models on Vertex AI."""

from __future__ import annotations

import re

from keyguard.upstream.causes import Scope
from keyguard.upstream.profiles.profile import Cause, Credential, Profile, Sizes, patterns, rule

_QUOTA = "details.violations.quotaId"

GEMINI = Profile(
    name="gemini",
    origins=("https://generativelanguage.googleapis.com",),
    # Not verified: that the paths which are compatible with OpenAI's take a key in this field as well.
    credential=Credential("x-goog-api-key", ""),
    takes_off_query=("key", "access_token"),
    rules=(
        rule(Cause.INVALID, 400, 401, 403, when={"details.reason": "API_KEY_INVALID|API_KEY_EXPIRED"}),
        rule(Cause.INVALID, 401),
        rule(Cause.INVALID, 403, when={"details.reason": "CONSUMER_SUSPENDED|CONSUMER_INVALID"}, scope=Scope.GROUP),
        # It has no reason of its own: the opening words are all that tells.
        rule(
            Cause.INVALID, 403, when={"status": "PERMISSION_DENIED", "message": "Your API key was reported as leaked.*"}
        ),
        rule(Cause.BILLING, 402),
        rule(Cause.BILLING, 403, when={"details.reason": "BILLING_DISABLED"}),
        # The words of a refusal speak of billing, whatever was used up: the name of the quota tells.
        rule(Cause.QUOTA, 429, when={_QUOTA: ".{0,100}RequestsPerDay.{0,100}"}, dimension="rpd"),
        rule(Cause.QUOTA, 429, when={_QUOTA: ".{0,100}PerDay.{0,100}"}),
        rule(Cause.QUOTA, 429, when={"details.reason": "quota_exceeded|QUOTA_EXHAUSTED"}),
        rule(Cause.QUOTA, 429, when={"status": "quota_exceeded"}),
        rule(Cause.EXHAUSTED, 429, when={_QUOTA: ".{0,100}RequestsPerMinute.{0,100}"}, dimension="rpm"),
        rule(Cause.EXHAUSTED, 429, when={_QUOTA: ".{0,60}InputTokens.{0,60}PerMinute.{0,60}"}, dimension="itpm"),
        rule(Cause.EXHAUSTED, 429, when={"status": "RESOURCE_EXHAUSTED"}),
        # Not verified: a model in high demand is refused so, by the words of users who met it.
        rule(Cause.OVERLOAD, 429, 503, when={"status": "UNAVAILABLE"}),
        rule(Cause.UNSUPPORTED, 403, when={"status": "PERMISSION_DENIED"}),
        # Of a project without billing, in a country in which that is needed.
        rule(Cause.UNSUPPORTED, 400, when={"status": "FAILED_PRECONDITION"}),
        rule(Cause.UNSUPPORTED, 404, when={"status": "NOT_FOUND", "message": "(?:models/|Publisher Model ).*"}),
        rule(Cause.REQUEST, when={"status": "INVALID_ARGUMENT|NOT_FOUND|OUT_OF_RANGE|ALREADY_EXISTS|UNIMPLEMENTED"}),
        rule(Cause.SYSTEM, when={"status": "INTERNAL|DEADLINE_EXCEEDED|UNKNOWN|CANCELLED|ABORTED"}),
    ),
    known=patterns(
        {
            "status": "INVALID_ARGUMENT|FAILED_PRECONDITION|OUT_OF_RANGE|UNAUTHENTICATED|PERMISSION_DENIED|NOT_FOUND|"
            "ALREADY_EXISTS|ABORTED|RESOURCE_EXHAUSTED|CANCELLED|UNKNOWN|INTERNAL|UNIMPLEMENTED|UNAVAILABLE|"
            "DEADLINE_EXCEEDED|quota_exceeded"
        }
    ),
    waits=(
        ("details.retryDelay", "duration"),
        ("details.metadata.quotaResetDelay", "duration"),
        ("message", "sentence"),
    ),
    day="America/Los_Angeles",
    sizes=Sizes(
        counts="apart",
        model_paths=(re.compile(r"/(?:models|tunedModels)/([^/:?]{1,256})"),),
        inputs=("contents", "systemInstruction", "system_instruction", "tools", "messages"),
        outputs=(
            *("generationConfig.maxOutputTokens", "generation_config.max_output_tokens"),
            *("max_completion_tokens", "max_tokens"),
        ),
        usage=("usageMetadata", "usage"),
        used_input=("promptTokenCount", "toolUsePromptTokenCount", "prompt_tokens"),
        used_output=("candidatesTokenCount", "thoughtsTokenCount", "completion_tokens"),
    ),
)
