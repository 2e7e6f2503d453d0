"""Random sequences of operations on functions, during which the API must keep its promises.

The rules are operations of callers and operators, and faults; `StoryState.look` in
`story_checks.py` checks the invariants after each. Long invocations begin in one rule and are
joined in a later one, so that everything else happens while they run.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.story_checks import COUNTED, FUNCTIONS, StoryState
from service.story_driver import Tell
from service.story_model import Kind, KnownFunction, Under
from service.story_work import WorkRules

ON_FAKES = settings(
    max_examples=160,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
# A repetition of a story may differ in a real server, so the first failure is reported.
ON_REAL = settings(ON_FAKES, stateful_step_count=12, phases=[Phase.generate], database=None)
NAMES = st.sampled_from("abc")
WHICH = st.integers(0, 3)
TARGETS = st.sampled_from([(0, 2), (0, 1), (1, 2), (0, 3), (2, 3), (1, 1), (2, 2)])
some_function = precondition(lambda self: bool(self.state.live))
some_call = precondition(lambda self: bool(self.state.under))


class StoryMachine(WorkRules, RuleBasedStateMachine):
    """One story. `tell` opens its server; `speed` selects a variant of the server."""

    tell: ClassVar[Tell]
    waits: ClassVar[tuple[float, ...]] = (0.02, 1.0, 6.0, 65.0)
    heard: ClassVar[Counter[str]] = Counter()

    @initialize(speed=st.integers(0, 3), limits=TARGETS)
    def open(self, speed: int, limits: tuple[int, int]) -> None:
        self.state = StoryState(type(self).tell(speed))
        self._create("a", limits, "deploy", 60)

    def teardown(self) -> None:
        if not hasattr(self, "state"):
            return
        try:
            self.state.rest()
            self.state.look()
            for function in list(self.state.live.values()):
                self._remove(function)
            self.state.rest()
        finally:
            self.heard.update(self.state.heard)
            self.heard["stories"] += 1
            self.state.driver.close()

    @invariant()
    def everything_is_as_it_should_be(self) -> None:
        if hasattr(self, "state"):
            self.state.look()
            self.heard["steps"] += 1

    def pick(self, which: int) -> KnownFunction:
        """One of the functions, in its present state."""
        live = list(self.state.live.values())
        function = live[which % len(live)]
        if function.state == "deploying":
            self.state.current(function)
        return function

    def as_shown(self, function: KnownFunction, answer: dict[str, Any]) -> None:
        """Checks that a change's response equals the function's later representation, except for
        invocations counted meanwhile.
        """
        shown = self.state.current(function)
        is_counting = self.state.under or function.unfinished or self.state.driver.is_fleet
        moving = {*COUNTED} if is_counting else set()
        if function.state != answer["state"]:
            moving |= {"state", "updated_at", "error_message"}
        for name in shown.keys() - moving:
            assert shown[name] == answer[name], f"{name}: {answer} and then {shown}"

    # Functions -------------------------------------------------------------------------------

    @rule(
        name=NAMES,
        limits=TARGETS,
        then=st.sampled_from(["deploy", "deploy", "deploy", "", "ill"]),
        seconds=st.sampled_from([60, 5, 1]),
    )
    def create(self, name: str, limits: tuple[int, int], then: str, seconds: int) -> None:
        self._create(name, limits, then, seconds)

    def _create(self, name: str, limits: tuple[int, int], then: str, seconds: int) -> None:
        state = self.state
        state.made += 1
        kind = Kind(f"f{state.made}.c1", stands=then != "ill", timeout_seconds=seconds)
        low, high = limits
        body = {"name": name, "min_instances": low, "max_instances": high} | kind.body()
        if name in state.live:
            state.refused("CONFLICT", 409, state.driver.call("POST", FUNCTIONS, body))
            return
        answer = state.good("POST", FUNCTIONS, body, 201)
        number = answer["function_id"]
        state.new_id(number)
        assert answer == {"function_id": number, "name": name, "state": "pending", "version": 1}
        function = KnownFunction(number, name, f"f{state.made}", {1: kind}, low, high)
        state.live[name] = function
        assert state.good("GET", f"{FUNCTIONS}/by-name/{name}") == state.current(function)
        if then == "deploy":
            self._deploy(function, "deploy")

    @some_function
    @rule(
        which=WHICH,
        limits=TARGETS,
        variant=st.sampled_from(["content", "content", "same", "scale", "ill", "name"]),
        name=NAMES,
    )
    def update(self, which: int, limits: tuple[int, int], variant: str, name: str) -> None:
        self._update(self.pick(which), variant, limits, name)

    def _update(
        self, function: KnownFunction, variant: str, limits: tuple[int, int], name: str
    ) -> None:
        state = self.state
        kind = function.versions[function.current]
        if variant in ("content", "ill"):
            mark = f"{function.key}.c{function.newest + 1}"
            kind = Kind(mark, stands=variant == "content")
        body: dict[str, Any] = kind.body()
        if variant == "scale":
            body = dict(zip(("min_instances", "max_instances"), limits, strict=True))
            function.limit(*limits)
        if variant == "name":
            body = {"name": name}
            if state.live.get(name, function) is not function:
                state.refused("CONFLICT", 409, state.driver.call("PUT", function.path, body))
                return
            del state.live[function.name]
            function.name, state.live[name] = name, function
        number = function.newest + 1
        function.versions[number] = kind
        crowded = state.is_busy(function)
        answer = state.good("PUT", function.path, body)
        answered = answer["current_version"]
        assert answered in (number, function.current), (
            f"{answered}, and not the new number {number}"
        )
        self._pointed(function, number, answer, crowded)

    @some_function
    @rule(which=WHICH, limits=TARGETS)
    def set_targets(self, which: int, limits: tuple[int, int]) -> None:
        function = self.pick(which)
        function.limit(*limits)
        body = dict(zip(("min_instances", "max_instances"), limits, strict=True))
        path = f"/api/elasticity/functions/{function.id}/pool-target"
        answer = self.state.driver.call("POST", path, body, {"X-Tenant-Id": "default"})
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"function_id": function.id} | body

    @some_function
    @rule(which=WHICH, number=st.integers(1, 6))
    def roll_back(self, which: int, number: int) -> None:
        self._roll_back(self.pick(which), number)

    def _roll_back(self, function: KnownFunction, number: int) -> None:
        state = self.state
        path, body = f"{function.path}/rollback", {"version": number}
        if number not in function.versions:
            state.refused("NOT_FOUND", 404, state.driver.call("POST", path, body))
            return
        crowded = state.is_busy(function)
        answer = state.good("POST", path, body)
        if number == function.current:
            assert answer["current_version"] == number
            if function.state == "active":
                function.is_ill = False  # this also clears the error of a failed update
        else:
            self._pointed(function, number, answer, crowded)

    def _pointed(
        self, function: KnownFunction, number: int, answer: dict[str, Any], crowded: bool
    ) -> None:
        """Checks the response to a request that makes that version current. `crowded`: running
        invocations may have kept its instances from becoming ready in time.
        """
        kind, before = function.versions[number], function.versions[function.current]
        taken = answer["current_version"] == number
        if function.state != "active" or kind == before:
            assert taken, answer
        elif not kind.stands:
            assert not taken, f"it cannot stand, and serves: {answer}"
        elif not crowded:
            assert taken, f"nothing was in its way: {answer}"
        if taken:
            function.current = number
        if function.state == "active":
            function.is_ill = not taken
        else:
            function.is_ill = None if function.state == "error" else False
        self.state.note(function)
        self.as_shown(function, answer)

    @some_function
    @rule(which=WHICH)
    def deploy(self, which: int) -> None:
        self._deploy(self.pick(which), "deploy")

    @some_function
    @rule(which=WHICH)
    def resume(self, which: int) -> None:
        function = self.pick(which)
        if function.state in ("pending", "error"):
            path = f"{function.path}/resume"
            self.state.refused("CONFLICT", 409, self.state.driver.call("POST", path))
        else:
            self._deploy(function, "resume")

    def _deploy(self, function: KnownFunction, verb: str) -> None:
        crowded = self.state.is_busy(function)
        answer = self.state.good("POST", f"{function.path}/{verb}")
        if function.state == "active":
            assert answer["state"] == "active", answer
            if verb == "deploy":
                function.is_ill = None if crowded else False
        else:
            stands = function.versions[function.current].stands
            ends = {"active" if stands else "error"} | ({"deploying"} if crowded else set())
            assert answer["state"] in ends, answer
            function.is_ill = answer["state"] == "error"
            self.state.note(function, answer["state"])
        self.as_shown(function, answer)

    @some_function
    @rule(which=WHICH)
    def pause(self, which: int) -> None:
        self._pause(self.pick(which))

    def _pause(self, function: KnownFunction) -> None:
        state = self.state
        answer = state.driver.call("POST", f"{function.path}/pause")
        if function.state in ("pending", "error"):
            state.refused("CONFLICT", 409, answer)
            assert answer.json()["details"]["state"] == function.state
            return
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"success": True, "message": None}
        function.is_ill = function.is_ill if function.state == "paused" else False
        state.note(function, "paused")

    @some_function
    @rule(which=WHICH)
    def delete(self, which: int) -> None:
        self._remove(self.pick(which))

    def _remove(self, function: KnownFunction) -> None:
        state, path = self.state, function.path
        state.good("DELETE", path, status=204)
        del state.live[function.name]
        state.gone.append(function)
        state.note(function, "deleted")
        posts = [f"{path}/{verb}" for verb in ("deploy", "pause", "resume", "invoke")]
        gets = [f"{path}/{noun}" for noun in ("invocations", "versions", "pool", "egress")]
        calls: list[tuple[str, str, Any]] = [("POST", one, None) for one in posts]
        calls += [("GET", one, None) for one in (path, *gets, f"{path}/invocations/{path[-36:]}")]
        calls += [("GET", f"{path}/{noun}", None) for noun in ("queue", "dead-letters")]
        calls += [("POST", f"{path}/invoke?mode=async", None)]
        calls += [("POST", f"{path}/rollback", {"version": 1}), ("DELETE", path, None)]
        calls += [("GET", f"{FUNCTIONS}/by-name/{function.name}", None)]
        calls += [("POST", f"{FUNCTIONS}/invoke/{function.name}", None)]
        calls += [("PUT", path, {"description": "late"})]
        calls += [("GET", f"{path}/invocations/{one}", None) for one in list(function.answers)[:1]]
        for method, at, body in calls:
            state.refused("NOT_FOUND", 404, state.driver.call(method, at, body))

    # Invocations -----------------------------------------------------------------------------

    def _under(self, function: KnownFunction, payload: str) -> Under:
        alone = not self.state.is_busy(function)
        current, states = {function.current}, {function.state}
        return Under(function, Nobody(), payload, current, alone, states)

    @some_function
    @rule(which=WHICH, code=st.sampled_from([None, 0, 1, 7, 255]), by_name=st.booleans())
    def invoke(self, which: int, code: int | None, by_name: bool) -> None:
        function = self.pick(which)
        payload = "ok" if code is None else f"exit {code}"
        call = self._under(function, payload)
        path = f"{FUNCTIONS}/invoke/{function.name}" if by_name else f"{function.path}/invoke"
        self.state.ended(call, self.state.driver.call("POST", path, {"payload": payload}))

    @some_function
    @rule(which=WHICH)
    def invoke_until_it_times_out(self, which: int) -> None:
        function = self.pick(which)
        call = self._under(function, "sleep 100")
        body = {"payload": "sleep 100", "timeout_seconds": 1}
        answer = self.state.driver.call("POST", f"{function.path}/invoke", body)
        self.state.ended(call, answer)
        assert answer.status_code != 200 or answer.json()["status"] == "timeout", answer.text

    @some_function
    @rule(which=WHICH, slow=st.integers(0, 2), count=st.integers(1, 4))
    def start_call(self, which: int, slow: int, count: int) -> None:
        self._begin(self.pick(which), slow, count)

    @some_function
    @rule(
        which=WHICH,
        slow=st.integers(0, 2),
        count=st.integers(1, 4),
        verb=st.sampled_from(
            ["content", "ill", "roll back", "deploy", "pause", "delete", "end", "kill", "lose"]
        ),
        again=st.booleans(),
    )
    def change_under_calls(self, which: int, slow: int, count: int, verb: str, again: bool) -> None:
        function = self.pick(which)
        self._begin(function, slow, count)
        if verb == "pause":
            self._pause(function)
            if again and function.state == "paused":
                self._deploy(function, "resume")
            return
        self.suffer(function, verb, count)
        if again and verb in ("content", "ill"):
            self._roll_back(function, function.newest - 1)

    def suffer(self, function: KnownFunction, verb: str, which: int) -> None:
        """Lets a fault happen to a function while invocations run. `which`: the sandbox that is
        lost.
        """
        if verb == "delete":
            self._remove(function)
        elif verb == "pause":
            self._pause(function)
        elif verb == "deploy":
            self._deploy(function, "deploy")
        elif verb in ("end", "kill"):
            self._restart(kill=verb == "kill")
        elif verb == "lose":
            self._kill_sandbox(which)
        elif verb == "roll back":
            self._roll_back(function, max(1, function.current - 1))
        else:
            self._update(function, verb, (function.low, function.high), function.name)

    def _begin(self, function: KnownFunction, slow: int, count: int) -> None:
        payload = f"sleep {self.state.driver.slow[slow]:g}"
        for _ in range(count):
            call = self._under(function, payload)
            path = f"{function.path}/invoke"
            call.running = self.state.driver.start_call("POST", path, {"payload": payload})
            self.state.under.append(call)

    @some_call
    @rule(which=WHICH)
    def join(self, which: int) -> None:
        self.state.join(self.state.under[which % len(self.state.under)])

    # Faults and ends -------------------------------------------------------------------------

    @some_function
    @rule(how_long=st.integers(0, 3))
    def wait(self, how_long: int) -> None:
        self.state.driver.wait(self.waits[how_long])

    @some_function
    @rule()
    def rest(self) -> None:
        self.state.rest()

    @some_function
    @rule(which=st.integers(0, 9))
    def kill_sandbox(self, which: int) -> None:
        self._kill_sandbox(which)

    def _kill_sandbox(self, which: int) -> None:
        if any(one.state == "deploying" for one in self.state.live.values()):
            return  # the effect depends on the function whose sandbox was killed
        if self.state.driver.kill_sandbox(which):
            for call in self.state.under:
                call.is_hurt = True
            for work in self.state.unfinished():
                work.is_hurt = True

    @some_function
    @rule(kill=st.booleans())
    def restart(self, kill: bool) -> None:
        self._restart(kill=kill)

    def _restart(self, *, kill: bool) -> None:
        state = self.state
        for call in state.under:
            call.is_stopped = True
        for work in state.unfinished():
            work.is_stopped = True
        state.driver.restart(kill=kill)
        for call in list(state.under):
            state.join(call)
        for function in state.live.values():
            function.bound, function.is_changed = function.high, True
            if function.state == "deploying":
                state.current(function)


class Nobody:
    """Stands for a request whose response nobody awaits: `done` is true at once."""

    def done(self) -> bool:
        return True

    def answer(self) -> None:
        return None
