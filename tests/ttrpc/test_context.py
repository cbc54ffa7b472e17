"""The context as grpcio has it, seen from both ends of a call."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any, Callable

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import code_pb2, status_pb2
from grpc_status import rpc_status

from nri_sync.codes import StatusCode
from nri_sync.rpc.context import Aborted, current_context
from nri_sync.rpc.status import DETAILS_KEY, Status
from nri_sync.ttrpc import ServicerContext, connect
from tests.ttrpc.rig import LONG, Calls, error_of, eventually, method, serving, text

__all__: list[str] = []

Code = grpc.StatusCode


def make() -> ServicerContext:
    return ServicerContext("/a/b", (), 0.0, None, "unix:x", lambda: True)


def outcome(behave: Callable[[ServicerContext], Any], **options: Any) -> Any:
    """The answer to a call whose handler is ``behave(context)``."""
    handler = method("unary_unary", lambda request, context: behave(context))
    with serving({"M": handler}) as (_, address), connect(address) as channel:
        return Calls(channel).unary("M")(text("x"), **options).value


def failure(behave: Callable[[ServicerContext], Any]) -> tuple[grpc.StatusCode, str]:
    return error_of(lambda: outcome(behave))


class TestAsking:
    def test_metadata(self) -> None:
        seen: list[Any] = []

        def behave(context: ServicerContext) -> Any:
            seen.extend(context.invocation_metadata())
            return text("")

        outcome(behave, metadata=(("a", "1"), ("Key", "2"), ("a", "3")))
        assert seen == [("a", "1"), ("Key", "2"), ("a", "3")]
        assert seen[0].key == "a"
        assert seen[0].value == "1"

    def test_the_state_that_interceptors_read(self) -> None:
        """py-grpc-prometheus reads these attributes of grpcio's context."""
        context = make()

        def state() -> tuple[Any, ...]:
            found = context._state
            return found.client, found.code, found.details

        assert state() == ("open", None, None)
        context.set_code(Code.NOT_FOUND)
        context.set_details("gone")
        context.end()
        assert state() == ("cancelled", Code.NOT_FOUND, "gone")

    def test_no_metadata(self) -> None:
        assert outcome(lambda context: text(str(context.invocation_metadata()))) == "()"

    def test_the_deadline_of_the_caller(self) -> None:
        left = float(outcome(lambda c: text(str(c.time_remaining())), timeout=LONG))
        assert 0 < left <= LONG

    @pytest.mark.parametrize("timeout", [None, 1e12, float("inf")])
    def test_no_deadline(self, timeout: float | None) -> None:
        assert outcome(lambda c: text(str(c.time_remaining())), timeout=timeout) == "None"

    def test_the_caller(self) -> None:
        context = make()
        assert context.peer() == "unix:x"
        nobody: Any = (context.peer_identities(), context.peer_identity_key())  # type: ignore[func-returns-value]
        assert nobody == (None, None)
        assert context.auth_context() == {}
        assert outcome(lambda c: text(c.peer())).startswith("unix:/")

    def test_the_method(self) -> None:
        assert outcome(lambda c: text(c.method)) == "/test.Service/M"

    def test_the_context_of_the_current_call(self) -> None:
        def behave(context: ServicerContext) -> StringValue:
            assert current_context.get() is context
            return text("same")

        assert outcome(behave) == "same"
        assert current_context.get(None) is None


class TestEnding:
    def test_abort(self) -> None:
        def behave(context: ServicerContext) -> Any:
            context.abort(Code.NOT_FOUND, "gone")

        assert failure(behave) == (Code.NOT_FOUND, "gone")

    def test_abort_is_no_bug_to_be_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        failure(lambda context: context.abort(Code.NOT_FOUND, "gone"))
        assert "failed" not in caplog.text

    def test_an_abort_that_is_swallowed_counts(self) -> None:
        def behave(context: ServicerContext) -> Any:
            with pytest.raises(Aborted):
                context.abort(Code.NOT_FOUND, "gone")
            return text("never mind")

        assert failure(behave) == (Code.NOT_FOUND, "gone")

    def test_abort_takes_errors_only(self) -> None:
        with pytest.raises(ValueError, match="OK"):
            make().abort(Code.OK, "fine")

    @pytest.mark.parametrize("code", ["NOT_FOUND", None, [], 5.0])
    def test_invalid_codes_are_refused(self, code: Any) -> None:
        with pytest.raises(TypeError, match="StatusCode"):
            make().abort(code, "x")
        with pytest.raises(TypeError, match="StatusCode"):
            make().set_code(code)

    @pytest.mark.parametrize(
        ("details", "expected"),
        [(None, ""), (b"caf\xc3\xa9 \xff", "café \ufffd"), (5, "5"), ("x", "x")],
    )
    def test_details_of_any_kind(self, details: Any, expected: str) -> None:
        assert failure(lambda c: c.abort(Code.ABORTED, details)) == (Code.ABORTED, expected)

    def test_rich_status(self) -> None:
        rich = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="full")
        rich.details.add().Pack(text("more"))

        def behave(context: ServicerContext) -> Any:
            context.abort_with_status(rpc_status.to_status(rich))

        with pytest.raises(grpc.RpcError) as error:
            outcome(behave)
        received = rpc_status.from_call(error.value)
        assert received == rich
        assert error.value.code() is Code.RESOURCE_EXHAUSTED

    def test_a_status_without_more(self) -> None:
        class Plain(grpc.Status):
            code = Code.ABORTED
            details = "plain"
            trailing_metadata: Any = None

        assert failure(lambda c: c.abort_with_status(Plain())) == (Code.ABORTED, "plain")

    def test_set_code_and_details(self) -> None:
        def behave(context: ServicerContext) -> Any:
            context.set_code(Code.ABORTED)
            context.set_details("not now")
            assert (context.code(), context.details()) == (Code.ABORTED, "not now")
            return text("dropped")

        assert failure(behave) == (Code.ABORTED, "not now")

    def test_set_code_without_details(self) -> None:
        def behave(context: ServicerContext) -> Any:
            context.set_code(Code.ABORTED)
            return text("dropped")

        assert failure(behave) == (Code.ABORTED, "")

    def test_the_number_of_a_code(self) -> None:
        context = make()
        context.set_code(5)
        assert context.code() is Code.NOT_FOUND
        context.set_code(99)
        assert context.code() is Code.UNKNOWN

    def test_set_code_ok(self) -> None:
        def behave(context: ServicerContext) -> Any:
            context.set_code(Code.OK)
            return text("fine")

        assert outcome(behave) == "fine"

    def test_a_code_that_is_set_counts_more_than_the_exception(self) -> None:
        def behave(context: ServicerContext) -> Any:
            context.set_code(Code.ABORTED)
            raise KeyError("x")

        assert failure(behave) == (Code.ABORTED, "KeyError: 'x'")

    def test_but_an_exception_is_never_ok(self) -> None:
        def behave(context: ServicerContext) -> Any:
            context.set_code(Code.OK)
            raise KeyError("x")

        assert failure(behave) == (Code.UNKNOWN, "KeyError: 'x'")

    def test_an_abort_can_be_taken_back(self) -> None:
        context = make()
        with pytest.raises(Aborted):
            context.abort(Code.ABORTED, "x")
        aborted, status = context.aborted, context.status(None)
        assert (aborted, status) == (True, Status(StatusCode.ABORTED, "x"))
        context.forget_abort()
        aborted, status = context.aborted, context.status(None)
        assert (aborted, status) == (False, None)

    def test_callbacks_when_the_call_is_over(self) -> None:
        called = threading.Event()
        refused: list[bool] = []

        def behave(context: ServicerContext) -> Any:
            assert context.is_active()
            assert context.add_callback(lambda: refused.append(context.add_callback(called.set)))
            assert context.add_callback(called.set)
            return text("")

        outcome(behave)
        assert called.wait(LONG)
        assert refused == [False]

    def test_cancel(self) -> None:
        called = threading.Event()
        results: list[bool] = []
        done = threading.Event()

        def behave(context: ServicerContext) -> Any:
            context.add_callback(called.set)
            results.extend([context.is_active(), context.cancel(), context.is_active()])
            results.append(context.cancel())
            assert called.wait(LONG)
            done.set()
            return text("dropped")

        assert failure(behave) == (Code.CANCELLED, "cancelled by the server")
        assert done.wait(LONG)
        assert results == [True, True, False, False]


class Interrupted(ServicerContext):
    """The call ends while a callback is being added: found neither ended, nor with anything to call."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_callbacks" and value == []:
            assert self.end() == []
        super().__setattr__(name, value)


def test_a_callback_that_comes_with_the_end_is_not_lost() -> None:
    context = Interrupted("/a/b", (), 0.0, None, "unix:x", lambda: True)
    assert not context.add_callback(lambda: None)
    assert context.end() == []
    assert not context.cancel()


def test_served_calls_are_no_work_for_the_garbage_collector() -> None:
    contexts: list[Any] = []

    def behave(message: Any, context: Any) -> Any:
        context.add_callback(gone.set)
        assert context.time_remaining() > 0
        contexts.append(weakref.ref(context))
        return message

    gone = threading.Event()
    with serving({"M": method("unary_unary", behave)}) as (_, address), connect(address) as channel:
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                gone.clear()
                Calls(channel).unary("M")(text("x"), timeout=LONG)
                assert gone.wait(LONG)
            # The threads that served them may hold them a moment longer, the last one until it serves again.
            assert eventually(lambda: [context() for context in contexts[:2]] == [None, None])
        finally:
            gc.enable()


class TestFeaturesThatTtrpcLacks:
    def test_trailing_metadata(self) -> None:
        context = make()
        with pytest.raises(ValueError, match=r"trailing metadata.*'k'"):
            context.set_trailing_metadata((("k", "v"),))
        context.set_trailing_metadata(())
        assert context.trailing_metadata() == ()

    @pytest.mark.parametrize("value", [b"\xff\xff", "text", 5, None])
    def test_invalid_rich_details_are_refused(self, value: Any) -> None:
        context = make()
        with pytest.raises(ValueError, match=r"google\.rpc\.Status"):
            context.set_trailing_metadata(((DETAILS_KEY, value),))
        assert context.trailing_metadata() == ()

    def test_the_rich_status(self) -> None:
        context = make()
        context.set_trailing_metadata(((DETAILS_KEY, b"\x08\x05"),))
        assert context.trailing_metadata() == ((DETAILS_KEY, b"\x08\x05"),)

    def test_initial_metadata(self) -> None:
        make().send_initial_metadata(())
        with pytest.raises(ValueError, match="initial metadata"):
            make().send_initial_metadata((("k", "v"),))

    def test_compression(self) -> None:
        make().set_compression(grpc.Compression.NoCompression)
        make().disable_next_message_compression()
        with pytest.raises(ValueError, match="compress"):
            make().set_compression(grpc.Compression.Gzip)
