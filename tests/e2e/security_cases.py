"""The catalogue of attacks: each case, the tests that prove it, and the measured results.

`docs/reference/security-tests.md` is generated from these rows (`security_page.py`), and
`tests/architecture/test_security_cases.py` checks that every test named here exists.
"""

from dataclasses import dataclass

HANDLERS = "tests/e2e/test_hostile_handlers.py"
ENDS = "tests/e2e/test_hostile_ends.py"
ROOTS, BASES = "tests/unit/test_root_file_system.py", "tests/e2e/test_base_images.py"
SHARING = "tests/e2e/test_hostile_sharing.py"
REUSE = "tests/e2e/test_hostile_reuse.py"
STRESS = "tests/e2e/test_hostile_stress.py"
CONTROLS = "tests/e2e/test_hostile_controls.py"
GLOBAL_LIMIT = "tests/e2e/test_global_limit.py"
FENCE, CALLS, EGRESS = (f"tests/e2e/test_{one}.py" for one in ("fence", "calls", "egress"))
WARM, IMAGES = "tests/e2e/test_warm_reuse.py", "tests/unit/test_images.py"
GVISOR = "tests/e2e/test_gvisor.py"
GUEST, CLI = "tests/sandbox/test_guest.py", "tests/unit/test_cli.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`tests`: node ids, the most readable one first. `controls`: tests in which the case fails
    because a protection is missing. `not_run`: why there is no test, or which part has no test.
    `not_on_v2`: the tests that were not run on pure v2, and why. `runsc`: tests of the same attack
    in sandboxes of gVisor's runsc.
    """

    id: str
    tries: str
    tests: tuple[str, ...] = ()
    network: str = "none"
    figure: str = ""
    controls: tuple[str, ...] = ()
    not_run: str = ""
    not_on_v2: str = ""
    runsc: tuple[str, ...] = ()


CASES = (
    Case(
        id="B1",
        tries="reads its identity: ids, groups, capabilities, filter, uid map; cold and warm, in shell, Python and Node",
        tests=(
            f"{FENCE}::test_identity",
            f"{FENCE}::test_two_instances_at_once_are_two_users_of_the_host",
            f"{HANDLERS}::test_every_runtime_runs_handlers_as_nobody_in_particular",
        ),
        figure="uid 1000, five capability sets empty, no_new_privs 1, seccomp 2; two instances have two uids of the host",
        controls=(
            f"{CONTROLS}::test_without_uids_of_their_own_two_sandboxes_are_one_user",
            f"{CONTROLS}::test_with_a_handler_of_the_guests_own_user_the_guest_is_in_reach",
        ),
        runsc=(
            f"{GVISOR}::test_identity",
            f"{GVISOR}::test_every_process_of_a_sandbox_is_held_on_the_host",
        ),
    ),
    Case(
        id="B2",
        tries="creates processes and threads endlessly: shell, fork, threads, posix_spawn",
        tests=(f"{HANDLERS}::test_a_bomb_of_processes_stays_within_its_limit_and_ends",),
        figure="at most 512 of 512; ends at most 0.04 s after a deadline of 1 s; meanwhile, 20 forks on the host succeed",
        controls=(f"{CONTROLS}::test_without_a_limit_of_processes_a_bomb_grows_beyond_it",),
        runsc=(
            f"{GVISOR}::test_a_fork_bomb_ends_at_its_deadline",
            f"{GVISOR}::test_a_handler_has_no_more_than_its_processes",
        ),
    ),
    Case(
        id="B3",
        tries="uses memory as heap, shared mapping, memfd, tmpfs, socket and pipe buffers, lookups of missing names",
        tests=(
            f"{HANDLERS}::test_memory_of_every_kind_is_the_sandboxs_own",
            f"{CALLS}::test_a_handler_that_eats_its_memory_ends_as_oom_and_is_replaced",
            f"{GLOBAL_LIMIT}::test_what_sockets_hold_is_held_by_the_sandboxs_memory",
            f"{GLOBAL_LIMIT}::test_all_sandboxes_together_have_a_limit",
        ),
        figure="256 of 256 MiB at most, status oom (pipes reach 91 MiB, names 38); the host's free memory fell by at most 322 MiB; 400 TCP connections hold 114 MiB, 9,450 unaccepted ones 210",
        controls=(f"{GLOBAL_LIMIT}::test_without_a_limit_of_sockets_they_hold_more",),
        runsc=(f"{GVISOR}::test_too_much_memory_is_told_and_survived",),
    ),
    Case(
        id="B4",
        tries="fills every writable place with bytes and with files; a sparse and an allocated file of 1 TB",
        tests=(f"{HANDLERS}::test_a_disk_is_filled_to_its_cap_and_it_is_the_sandboxs_own",),
        figure="ENOSPC at 512 MiB and 131,072 files in /tmp, 64 MiB and 4,096 in /dev/shm; 0 bytes elsewhere",
        controls=(f"{CONTROLS}::test_with_large_file_systems_a_disk_is_filled_beyond_its_cap",),
    ),
    Case(
        id="B5",
        tries="writes 10 GB to either stream and to both; 50,000 single bytes",
        tests=(
            f"{CALLS}::test_a_flood_of_output_is_cut_and_counted",
            f"{CALLS}::test_a_flood_of_single_bytes_does_not_hinder_the_end",
            f"{GUEST}::test_a_flood_starves_neither_the_other_stream_nor_the_deadline",
        ),
        figure="6 MiB of standard output and 1 MiB of standard error are kept, the dropped bytes are counted; the server grows by less than 56 MiB",
    ),
    Case(
        id="B6",
        tries="ignores signals and spins, stops itself, stops its child, hangs in vfork; 30 processes use more kernel time than the limit of a tenth of a core",
        tests=(
            f"{HANDLERS}::test_every_deadline_is_kept",
            f"{HANDLERS}::test_a_deadline_is_kept_despite_a_debt_of_the_processor",
            f"{CALLS}::test_a_call_ends_at_its_deadline",
        ),
        figure="100 of 100 end as timeout, at most 10 ms late; 20 of 20 that exceed their CPU quota, at most 514 ms late; scripts/test: 16 and 4",
        runsc=(f"{GVISOR}::test_a_deadline_holds_and_the_next_call_is_served",),
    ),
    Case(
        id="B7",
        tries="leaves a daemon (two forks and its own session), after success and after a timeout",
        tests=(
            f"{CALLS}::test_a_daemon_does_not_outlive_its_call",
            f"{GUEST}::test_a_daemon_is_dead_before_the_end_is_told",
        ),
        figure="0 alive when the end is reported",
    ),
    Case(
        id="B8",
        tries="leaves a grandchild that holds its output open; closes its output",
        tests=(
            f"{CALLS}::test_a_grandchild_that_holds_the_output_open_does_not_hold_the_answer",
            f"{CALLS}::test_closed_output_is_an_end_like_any_other",
            f"{GUEST}::test_a_stream_parked_in_a_message_to_nobody_does_not_hold_the_answer",
        ),
        figure="the response arrives within 1 s",
    ),
    Case(
        id="B9",
        tries="makes every system call that it should not: mounts, namespaces, keys, modules, tracing, foreign sockets, the entries of i386 and x32",
        tests=(
            f"{FENCE}::test_everything_forbidden_fails",
            f"{HANDLERS}::test_no_other_door_of_the_kernel_is_open",
            "tests/unit/test_seccomp.py::test_a_call_that_no_sandbox_may_make",
        ),
        figure="67 and 345 attempts, none succeeds",
        controls=(
            f"{CONTROLS}::test_without_the_filter_forbidden_calls_succeed",
            f"{FENCE}::test_the_same_tries_succeed_where_nothing_forbids_them",
        ),
        runsc=(f"{GVISOR}::test_everything_forbidden_fails",),
    ),
    Case(
        id="B10",
        tries="opens for writing every file of /proc, every directory, and the kernel's settings",
        tests=(
            f"{FENCE}::test_only_two_places_are_writable",
            f"{FENCE}::test_everything_forbidden_fails",
        ),
        figure="succeeds only for /tmp, /dev/shm and its own entries in /proc; no setting of the host changed",
        controls=(f"{CONTROLS}::test_without_masks_secrets_of_the_kernel_are_read",),
    ),
    Case(
        id="B11",
        tries="mounts control groups of every kind, searches for writable files in them",
        tests=(
            f"{HANDLERS}::test_no_control_group_can_be_reached_or_mounted",
            f"{FENCE}::test_nothing_of_the_hosts_control_groups",
            f"{FENCE}::test_mounts",
        ),
        figure="11 mounts EPERM, 0 files",
    ),
    Case(
        id="B12",
        tries="creates device nodes; opens files by handle",
        tests=(f"{FENCE}::test_devices", f"{FENCE}::test_everything_forbidden_fails"),
        figure="six devices exist, 0 created, EPERM",
    ),
    Case(
        id="B13",
        tries="opens running programs and what shells start from for writing while sandboxes start; a script whose interpreter is /proc/self/exe",
        tests=(f"{HANDLERS}::test_no_program_can_be_written_to_while_others_are_started",),
        figure="1,466,640 attempts, 575 sandboxes started meanwhile, 0 opened; digests of crun, the guest and the zygote's files unchanged",
        not_run="nothing is ever started in a running sandbox from outside, so there is no exec to wait for; the test uses new sandboxes and invocations instead",
    ),
    Case(
        id="B14",
        tries="lists its descriptors, a child's and the guest's, cold and warm, in three runtimes",
        tests=(
            f"{HANDLERS}::test_no_descriptor_of_ours_is_a_handlers",
            f"{FENCE}::test_descriptors",
            "tests/spec/test_hostile_directory.py::test_sandbox_directories_reach_no_host",
        ),
        figure="1,020 runs, 0 descriptors of the host; scripts/test: 90",
        controls=("tests/spec/test_hostile_directory.py::test_the_probe_finds_an_open_descriptor",),
        runsc=(
            f"{GVISOR}::test_descriptors_and_names",
            f"{GVISOR}::test_the_control_socket_and_the_guest_are_out_of_reach",
        ),
    ),
    Case(
        id="B15",
        tries="searches every file that it can open for canaries of the host and of another invocation; asks for cloud metadata",
        tests=(
            f"{HANDLERS}::test_secrets_of_the_host_and_of_others_are_not_found",
            f"{FENCE}::test_only_its_own_processes",
        ),
        figure="1,101 files read, 5 canaries, 0 found; its own variable is found",
        runsc=(f"{GVISOR}::test_secrets_of_the_host_are_not_found",),
    ),
    Case(
        id="B16",
        tries="connects to the API, the host, peers, databases, metadata, abstract sockets; raw, packet and ICMP sockets; names",
        tests=(
            f"{HANDLERS}::test_without_network_nobody_is_reached",
            f"{FENCE}::test_only_loopback",
            f"{EGRESS}::test_nothing_else_is_reached",
            f"{EGRESS}::test_the_api_is_not_reached_by_any_of_its_host_s_names",
            f"{EGRESS}::test_peers_do_not_reach_each_other",
            f"{EGRESS}::test_raw_packet_icmp_and_abstract_host_sockets_are_refused",
        ),
        network="none, egress",
        figure="none: 0 reached; egress: only public servers; 18 forbidden ranges and every address of the host refused",
        controls=(f"{EGRESS}::test_without_the_rules_the_forbidden_are_reached",),
        runsc=(f"{GVISOR}::test_no_network_but_its_own_loopback",),
    ),
    Case(
        id="B17",
        tries="takes every pid, kills and stops every process, exhausts the memory, writes to the guest's descriptors",
        tests=(
            f"{HANDLERS}::test_the_guest_cannot_be_kept_from_its_work",
            f"{FENCE}::test_a_killed_guest_costs_one_call_and_is_replaced",
            f"{FENCE}::test_a_stopped_guest_ends_at_the_outer_deadline",
        ),
        figure="5 ways; each time, the next invocation succeeds within 5 s",
        controls=(f"{CONTROLS}::test_with_a_handler_of_the_guests_own_user_the_guest_is_in_reach",),
    ),
    Case(
        id="B18",
        tries="writes forged ends of invocations to every descriptor, and leaves a process that responds in place of the next one",
        tests=(
            f"{HANDLERS}::test_no_result_is_forged",
            f"{GUEST}::test_frames_written_by_a_handler_are_only_its_output",
        ),
        figure="2,000 invocations, 0 forged; scripts/test: 200",
    ),
    Case(
        id="B19",
        tries="repeatedly creates links, pipes and names that the host could follow",
        tests=(
            f"{HANDLERS}::test_the_host_opens_nothing_that_a_handler_has_laid_out",
            "tests/spec/test_hostile_directory.py::test_a_link_of_the_image_leads_nowhere",
        ),
        figure="0 of the server's and the launcher's own system calls name a path inside a sandbox",
    ),
    Case(
        id="B20",
        tries="leaves 8,000 nested directories, and as many files as there is room for, with strange names and modes",
        tests=(
            f"{HANDLERS}::test_debris_is_gone_within_ten_seconds",
            f"{GUEST}::test_a_full_tmp_and_a_deep_tree_are_cleaned",
        ),
        figure="17,383 names gone after 40 ms",
    ),
    Case(
        id="B21",
        tries="spins, writes and syncs beside the victim; asks for a higher priority; runs stress-ng",
        tests=(
            f"{SHARING}::test_a_noisy_neighbour_has_its_share_and_no_more",
            f"{STRESS}::test_every_stressor_harms_nobody",
        ),
        figure="60 s: 40 % of a core with a limit of 40 %; four priorities refused; meanwhile, the victim's p99 is 10.5 ms (baseline 2.5, bound 12.5). 321 of 366 stressors started; after each, the next invocation succeeds",
        not_on_v2="stress-ng, which takes too long there",
        not_run="scripts/test has 3 s and no stress-ng",
    ),
    Case(
        id="B22",
        tries="takes as many as possible of timers, inotify, asynchronous I/O, keyrings, System V and POSIX objects, locks, terminals, sockets, descriptors; dumps core",
        tests=(f"{SHARING}::test_what_one_sandbox_uses_up_is_its_own",),
        figure="a second sandbox gets as many as the first, and the host's root as many as before; 0 core dumps. Found by this case and fixed: three counts that all sandboxes shared with root",
        controls=(f"{CONTROLS}::test_without_the_filter_forbidden_calls_succeed",),
    ),
    Case(
        id="B23",
        tries="makes system calls at random, with random arguments",
        tests=(f"{SHARING}::test_calls_at_random_harm_nobody",),
        figure="5,758,800 system calls in four runs of 300 s, and two runs that ended early, one as oom; 0 kernel warnings, the next invocations succeed; the victim's p99 is 3.5 ms (7,645 invocations, bound 12.7)",
        not_run="6 s in scripts/test; the kernel has no KASAN",
    ),
    Case(
        id="B24",
        tries="uploads images with links, members that climb out, hard links, devices, setuid files, whiteouts, bombs",
        tests=(
            f"{IMAGES}::test_the_hostile_is_refused_and_leaves_nothing",
            f"{IMAGES}::test_a_bomb_is_given_up_at_its_bound_whatever_it_says",
            f"{ENDS}::test_hostile_images_are_refused_by_a_running_server",
            f"{ROOTS}::test_a_hostile_root_is_refused_and_leaves_nothing",
            f"{ROOTS}::test_a_hostile_image_is_refused_and_leaves_nothing",
            f"{ROOTS}::test_what_is_dangerous_to_others_does_not_remain",
            f"{BASES}::test_an_image_cannot_redirect_mounts_or_starts",
        ),
        figure="each is refused with its reason, 0 files outside the store",
    ),
    Case(
        id="B25",
        tries="ends from 4 ms before its deadline to 3 ms after",
        tests=(f"{ENDS}::test_an_end_at_the_deadline_is_one_end",),
        figure="2,000 invocations: 857 success, 1,143 timeout, each has one outcome; scripts/test: 24",
    ),
    Case(
        id="B26",
        tries="prints text that a terminal, a browser, a database or a table could interpret",
        tests=(
            f"{ENDS}::test_output_that_would_do_something_where_it_is_shown_is_data",
            f"{CLI}::test_a_terminal_shows_control_characters",
            f"{CLI}::test_a_description_cannot_colour_the_terminal",
            "tests/e2e/test_log.py::test_no_control_character_of_a_caller_reaches_the_log",
        ),
        figure="is returned and shown unchanged; 0 control characters in the log",
    ),
    Case(
        id="B27",
        tries="runs every setuid and setgid program of the host, and one of its own",
        tests=(
            f"{ENDS}::test_a_setuid_program_gives_nothing",
            f"{BASES}::test_no_set_user_id_remains_and_no_capability",
            f"{BASES}::test_its_shell_never_runs_with_the_privileges_of_the_guest",
        ),
        figure="16 programs, ids and capabilities unchanged",
    ),
    Case(
        id="B28",
        tries="runs the public escape checkers",
        not_run="they are other projects' programs, fetched from the internet. By hand on 2026-11-25: deepce, amicontained, and the checks of CDK found no escape, no privilege, and no socket or file of the host. The probes in this repository are `tests/e2e/forbidden.py` and `tests/e2e/closed_doors.py`",
    ),
    Case(
        id="C1",
        tries="changes environment, umask, directory, limits, priority, signals, shell options, and compares",
        tests=(
            f"{REUSE}::test_the_second_call_starts_as_the_first_did",
            f"{WARM}::test_nothing_of_a_call_is_left_for_the_next",
        ),
        figure="0 lines differ in 100 pairs of invocations in shells and 3 in Python; scripts/test: 10 and 3",
        controls=(f"{WARM}::test_negative_control_what_is_in_the_interpreter_survives",),
    ),
    Case(
        id="C2",
        tries="searches variables, files and memory for the secret of the previous invocation",
        tests=(
            f"{REUSE}::test_a_secret_is_nowhere_in_the_next_call_of_a_shell",
            f"{WARM}::test_a_calls_secret_is_nowhere_in_the_next_call",
            f"{GUEST}::test_a_secret_of_a_call_is_not_kept_in_the_guest",
        ),
        figure="100 pairs in shells, 20 in Python, 0 hits; scripts/test: 50 and 20",
        controls=(
            f"{WARM}::test_negative_control_the_same_search_finds_it_in_a_process_that_stays",
        ),
        runsc=(f"{GVISOR}::test_what_the_call_before_was_told_is_not_found",),
    ),
    Case(
        id="C3",
        tries="leaves files everywhere, System V and POSIX objects, abstract and other sockets, locks",
        tests=(
            f"{REUSE}::test_what_can_be_left_is_gone",
            f"{GUEST}::test_files_and_system_v_objects_are_gone_for_the_next_call",
        ),
        figure="0 left; with `cleanup_on_exit: false`, only the files in /tmp",
        runsc=(f"{GVISOR}::test_nothing_of_a_call_is_left_for_the_next",),
    ),
    Case(
        id="C4",
        tries="leaves a process that writes into the next invocation's output",
        tests=(
            f"{REUSE}::test_what_a_shell_left_running_writes_into_no_other_call",
            f"{WARM}::test_what_a_call_left_running_writes_into_no_other_call",
        ),
        figure="1,500 pairs in shells, 200 in Python, 0 bytes in the wrong output; scripts/test: 150 and 200",
    ),
    Case(
        id="C5",
        tries="leaves descriptors and dead children",
        tests=(
            f"{REUSE}::test_the_second_call_starts_as_the_first_did",
            f"{GUEST}::test_two_hundred_processes_and_a_thousand_descriptors_leave_nothing",
            f"{GUEST}::test_three_hundred_calls_leave_the_guest_as_it_was",
        ),
        figure="only 0, 1, 2 and that of the listing; 0 zombies",
    ),
    Case(
        id="C6",
        tries="leaves aliases, functions, options and start files of a shell; patches modules of Python",
        tests=(
            f"{REUSE}::test_the_second_call_starts_as_the_first_did",
            f"{WARM}::test_nothing_of_a_call_is_left_for_the_next",
        ),
        figure="no effect",
    ),
    Case(
        id="C7",
        tries="is updated and rolled back while it is invoked",
        tests=(
            f"{REUSE}::test_a_call_runs_one_version_whole",
            "tests/e2e/test_races.py::test_calls_racing_a_change_run_or_are_refused_by_name",
        ),
        figure="245 invocations across 20 updates and a rollback, 0 on a wrong version; scripts/test: 8 updates",
    ),
    Case(
        id="C8",
        tries="fills memory and files with a pattern, for which another tenant's function of that name searches",
        tests=(
            f"{REUSE}::test_nothing_of_a_tenant_is_found_by_another",
            f"{FENCE}::test_two_instances_at_once_are_two_users_of_the_host",
        ),
        figure="250 pairs, 0 patterns; no host uid in common; scripts/test: 5",
        controls=(f"{CONTROLS}::test_without_uids_of_their_own_two_sandboxes_are_one_user",),
    ),
    Case(
        id="C9",
        tries="draws random numbers, uuids and names in several sandboxes",
        tests=(
            f"{REUSE}::test_no_two_draw_the_same",
            f"{WARM}::test_two_instances_share_no_numbers",
            "tests/sandbox/test_runner.py::test_forks_do_not_draw_the_same_numbers",
        ),
        figure="200 draws in shells, 60 in Python, all distinct",
    ),
    Case(
        id="C10",
        tries="ends by timeout, out of memory, by a failure, by killing itself or the guest",
        tests=(
            f"{REUSE}::test_after_a_bad_end_the_next_call_succeeds",
            f"{WARM}::test_an_instance_that_ended_badly_is_replaced",
        ),
        figure="500 of 500 next invocations succeed, in a new sandbox unless only the handler ended; scripts/test: 35",
    ),
)
