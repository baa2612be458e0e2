"""One unary call to one member: answered, or failed with a verdict. Nothing else comes out of gRPC's asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from grpc import StatusCode, aio

from leaseha.adapters.etcd import verdict
from leaseha.adapters.etcd.verdict import Verdict

EOF: Final = aio.EOF  # type: ignore[attr-defined]  # missing in grpc's stubs

Metadata = tuple[tuple[str, str], ...]

HAS_LEADER: Final[Metadata] = (("hasleader", "true"),)
"""Without it a member that lost its quorum keeps calls and watches waiting instead of failing them."""


class CallFailed(Exception):  # a result within the adapter, which turns it into an outcome
    """A call to a member had no good answer. Never leaves the adapter."""

    def __init__(self, why: Verdict) -> None:
        super().__init__(why.why)
        self.verdict = why


def failure(code: StatusCode, details: str | None) -> CallFailed:
    """The failure that a gRPC status stands for."""
    return CallFailed(verdict.of(code, details))


async def unary(
    method: Callable[..., Any],
    request: object,
    timeout_s: float,
    metadata: Metadata = (),
) -> Any:
    """Call once. The deadline travels with the request, so etcd gives it up then, too.

    Raises:
        CallFailed: no good answer, whatever the reason.
    """
    try:
        return await method(request, timeout=max(timeout_s, 0.0), metadata=metadata)
    except aio.AioRpcError as error:
        raise failure(error.code(), error.details()) from None
    except (aio.UsageError, aio.InternalError) as error:
        raise failure(StatusCode.CANCELLED, str(error)) from None
    except asyncio.CancelledError:
        raise_if_ours()
        raise failure(StatusCode.CANCELLED, None) from None


async def exchange(
    method: Callable[..., Any],
    request: object,
    timeout_s: float,
    metadata: Metadata = (),
) -> Any:
    """One request and one answer on a stream of its own (etcd's keepalive knows no other form).

    Raises:
        CallFailed: no good answer, whatever the reason.
    """
    call = method(timeout=max(timeout_s, 0.0), metadata=metadata)
    try:
        await call.write(request)
        answer = await call.read()
    except aio.AioRpcError as error:
        raise failure(error.code(), error.details()) from None
    except (aio.UsageError, aio.InternalError, asyncio.InvalidStateError) as error:
        raise failure(StatusCode.CANCELLED, str(error)) from None
    except asyncio.CancelledError:
        raise_if_ours()
        raise failure(StatusCode.CANCELLED, None) from None
    finally:
        call.cancel()
    if answer is EOF:
        raise failure(StatusCode.CANCELLED, "the stream ended without an answer")
    return answer


def raise_if_ours() -> None:
    """Let a cancellation of the running task through; gRPC raises one, too, for a closed channel."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
