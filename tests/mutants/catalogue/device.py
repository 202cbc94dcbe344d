"""What is asked of a device."""

from functools import partial

from mutants.mutant import Mutant

npu = partial(Mutant, file="dsv4_kernels/device/npu.py", tests="tests/test_device.py")
devices = partial(Mutant, file="dsv4_kernels/device/__init__.py", tests="tests/test_device.py")
main = partial(Mutant, file="dsv4_kernels/__main__.py", tests="tests/test_device.py")
cuda = partial(Mutant, file="dsv4_kernels/device/cuda.py", tests="tests/test_device.py")
missing = partial(Mutant, file="dsv4_kernels/backends/missing.py", tests="tests/test_device.py")
fork = partial(
    Mutant,
    file="dsv4_kernels/device/__init__.py",
    tests="tests/backends/test_cpu_processes.py",
    killed_by="test_a_process_forked_after_a_launch_launches",
)
ASKED = "test_an_accelerator_is_what_torch_and_triton_have_of_it"
HANDED_ON = "test_streams_graphs_and_waits_are_the_device_s"

MUTANTS = (
    devices(
        "a driver is kept for a device that cannot be made current",
        "                _DRIVER.leave()\n                raise\n",
        "                raise\n",
        killed_by="test_a_device_that_cannot_be_made_current_is_left_free_and_its_driver_is_given_back",
    ),
    devices(
        "a device that cannot be made current is nobody's any more",
        "            lock.release()\n            raise\n",
        "            raise\n",
        killed_by="test_a_device_that_cannot_be_made_current_is_left_free_and_its_driver_is_given_back",
    ),
    npu(
        "torch_npu alone makes an NPU",
        "    return torch.npu.is_available()",
        "    return True or torch.npu.is_available()",
        killed_by="test_torch_npu_without_a_device_is_no_npu",
    ),
    npu(
        "a torch_npu that does not load is an error",
        "except (ImportError, OSError):",
        "except ImportError:",
        killed_by="test_torch_npu_without_its_libraries_is_no_npu[OSError]",
    ),
    npu(
        "the cores of another device",
        "get_device_properties(device.index or 0)",
        "get_device_properties(0)",
        killed_by="test_an_npu_is_asked_for_its_cores",
    ),
    npu(
        "vector cores are counted as cube cores",
        'cores["num_aicore"], cores["num_vectorcore"]',
        'cores["num_vectorcore"], cores["num_vectorcore"]',
        killed_by="test_an_npu_is_asked_for_its_cores",
    ),
    npu(
        "a wrong size of L1",
        "l1=512 * 1024",
        "l1=1024 * 1024",
        killed_by="tests/gates/test_ascend_gate.py::test_parts_have_the_cores_and_memories_that_the_compiler_knows",
    ),
    npu(
        "launches without a queue are not warned of",
        "    if queue.lower() not in",
        "    if queue.lower() in",
        killed_by="test_launches_without_a_queue_are_warned_of[0-True]",
    ),
    npu(
        "a queue is warned of",
        'in ("true", "1")',
        'in ("true",)',
        killed_by="test_launches_without_a_queue_are_warned_of[1-False]",
    ),
    npu(
        "the queue is not there unless asked for",
        '"TRITON_ENABLE_TASKQUEUE", "true"',
        '"TRITON_ENABLE_TASKQUEUE", "false"',
        killed_by="test_launches_without_a_queue_are_warned_of[None-False]",
    ),
    devices(
        "Triton's interpreter is let through",
        'os.environ.get("TRITON_INTERPRET", "0") == "1"',
        'os.environ.get("TRITON_INTERPRET", "0") == "2"',
        killed_by="test_an_interpreter_in_the_compilers_place_is_refused",
    ),
    main(
        "a command without Triton is a traceback",
        'if error.name == "triton":',
        'if error.name == "tritton":',
        killed_by="test_without_triton_a_command_is_one_sentence",
    ),
    devices(
        "a GPU is better than an NPU",
        '{"npu": npu, "cuda": cuda, "cpu": cpu}',
        '{"cuda": cuda, "npu": npu, "cpu": cpu}',
        killed_by="test_torch_npu_without_a_device_is_no_npu",
    ),
    devices(
        "the driver of before is not given back",
        "                require_triton().runtime.driver.set_active(self._before)\n"
        "                self._changed",
        "                self._changed",
        killed_by="test_on_gives_the_driver_back",
    ),
    devices(
        "a route ends those of other kinds",
        "{**_routes.get(), kind: Route",
        "{kind: Route",
        killed_by="test_routes_are_by_kind_and_end",
    ),
    devices(
        "what a compiler refuses is not recorded",
        "            with _refusals(routed.driver):\n                yield",
        "            if routed:\n                yield",
        killed_by="test_routes_are_by_kind_and_end",
    ),
    devices(
        "a launch waits for the one around it",
        "if me in self._holders:",
        "if False:",
        killed_by="test_a_launch_on_one_device_inside_of_one_on_another",
    ),
    devices(
        "one of those who wait for a driver is told",
        "self._changed.notify_all()",
        "self._changed.notify()",
        killed_by="test_one_driver_at_a_time",
    ),
    devices(
        "an interrupt ahead of a launch keeps the device",
        "        except BaseException:\n            lock",
        "        except Exception:\n            lock",
        killed_by="test_what_ends_the_wait_for_a_driver_leaves_the_device_free[KeyboardInterrupt]",
    ),
    devices(
        "a device is current though launches go elsewhere",
        "cpu.NOTHING if routed else current",
        "current",
        killed_by="test_the_device_is_current_inside_unless_launches_go_elsewhere",
    ),
    devices(
        "what was entered first is left first",
        "self._entered.pop()",
        "self._entered.pop(0)",
        killed_by="test_the_device_is_current_inside_unless_launches_go_elsewhere",
    ),
    devices(
        "a broken Triton is a missing one",
        'if error.name != "triton":',
        "if False:",
        killed_by="test_a_broken_triton_is_not_a_missing_one",
    ),
    devices(
        "a GPU's memory is not kept for a stream",
        'if tensor.device.type in ("npu", "cuda"):',
        'if tensor.device.type == "npu":',
        killed_by=f"{HANDED_ON}[cuda]",
    ),
    devices(
        "nobody waits for an NPU",
        'if device.type != "cpu":',
        'if device.type == "cuda":',
        killed_by=f"{HANDED_ON}[npu]",
    ),
    devices(
        "an NPU has the graphs of a GPU",
        'api.NPUGraph() if hasattr(api, "NPUGraph") else api.CUDAGraph()',
        'api.CUDAGraph() if hasattr(api, "CUDAGraph") else api.NPUGraph()',
        killed_by=HANDED_ON,
    ),
    fork(
        "a fork without a launch takes the driver away",
        "if had and not self._holders:",
        "if not self._holders:",
    ),
    fork(
        "a fork inside of a launch ends it",
        "if had and not self._holders:",
        "if had:",
    ),
    fork(
        "a forked process has the launches of threads that are not there",
        "[thread for thread in self._holders if thread == me]",
        "[*self._holders]",
    ),
    fork(
        "a forked process waits for who looked at the driver",
        "        self._changed = threading.Condition()\n        me, had",
        "        me, had",
    ),
    fork(
        "a forked process waits for the launches of threads that are not there",
        "    _lock.cache_clear()  # those",
        "    pass  # those",
    ),
    *(
        family(
            f"{wrong} {name}",
            old,
            new,
            killed_by=f"{ASKED}[{name}]",
        )
        for family, name in ((npu, "npu"), (cuda, "cuda"))
        for wrong, old, new in (
            (
                "the driver that is active is not",
                "triton.runtime.driver.default",
                "triton.runtime.driver.active",
            ),
            (
                "another device is current than",
                f"return torch.{name}.device(device)",
                f"return torch.{name}.device(0)",
            ),
        )
    ),
    *(
        family(
            f"the first {name} is the best",
            f"torch.{name}.current_device()",
            "0",
            killed_by="test_torch_npu_without_a_device_is_no_npu",
        )
        for family, name in ((npu, "npu"), (cuda, "cuda"))
    ),
    cuda(
        "a GPU has the name of the current one",
        "torch.cuda.get_device_name(device)",
        "torch.cuda.get_device_name(torch.cuda.current_device())",
        killed_by=f"{ASKED}[cuda]",
    ),
    cuda(
        "more programs than a grid has",
        "_PROGRAMS = 2**31 - 1",
        "_PROGRAMS = 2**31",
        killed_by="test_a_gpu_gets_a_program_per_task",
    ),
    npu(
        "the plan is told of a queue that is not there",
        "stacklevel=4",
        "stacklevel=3",
        killed_by="test_launches_without_a_queue_are_warned_of[0-True]",
    ),
    missing(
        "one extra of several is named",
        "{','.join(extras)}",
        "{extras[0]}",
        killed_by="test_an_extra_is_got_from_a_checkout",
    ),
)
