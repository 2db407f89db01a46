"""Ask a person, and go on when they have answered.

The question stands (`flowork approvals`, `/api/v1/approvals`) until somebody answers yes or no or the deadline
passes. Leaves by `yes`, `no` or `timeout` with the payload; who answered and what they wrote is in
`payload.approval` if the payload is an object, and in the step's record always.

    {"title": "Open the valve?", "text": "{{ payload.liters }} l will be used", "timeout": "30m"}
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from appliance.contracts import Config, Context, Duration, Node, Out, Park, Wake, seconds


class ApprovalConfig(Config, frozen=True):
    title: Annotated[str, Meta(description="The question", min_length=1, max_length=200)]
    text: Annotated[str, Meta(description="What one should know to answer it", max_length=4000)] = ""
    timeout: Annotated[Duration | None, Meta(description="How long the question stands; for ever if left out")] = None


class Approval(Node[ApprovalConfig]):
    Config = ApprovalConfig
    title = "Approval"
    category = "people"
    icon = "hand"
    ports = ("yes", "no", "timeout")
    inline = True

    def run(self, ctx: Context, config: ApprovalConfig, payload: Any) -> Any:
        until = None if config.timeout is None else ctx.now() + seconds(config.timeout)
        ask = {"title": config.title, "text": config.text, "choices": ["yes", "no"]}
        return Park(until=until, ask=ask)

    def resume(self, ctx: Context, config: ApprovalConfig, payload: Any, wake: Wake) -> Any:
        if wake.kind == "time":
            return Out(payload, "timeout")
        answer = wake.value if isinstance(wake.value, dict) else {}
        ctx.log(f"{answer.get('by', 'somebody')} answered {answer.get('answer')}: {answer.get('note', '')}")
        kept = {**payload, "approval": answer} if isinstance(payload, dict) else payload
        return Out(kept, "yes" if answer.get("answer") == "yes" else "no")
