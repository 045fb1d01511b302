"""Inject every fault that the tests know, count what was survived and measure what a safe save costs.

    python tests/reliability.py         # five to ten minutes; writes results/reliability.md
"""
import os, statistics, subprocess, sys, tempfile, time
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from core.checkpoint import save_checkpoint  # noqa: E402
from core.facts import machine_name, versions  # noqa: E402

FILES = sorted(path.name for path in (ROOT / 'tests').glob('test_*.py'))
FAULTS = {      # parts of the names of the tests that inject it
    'killed (`kill -9`) at a random step': ['killed_20_times_at_random_steps', 'resume_after_a_kill'],
    'killed while a checkpoint is written': ['killed_20_times_while_saving'],
    'SIGINT or SIGTERM: in training, evaluation, the first step, to one process of two':
        ['a_signal_saves', 'a_signal_to_one_rank'],
    'a second signal': ['a_second_signal'],
    'data preparation killed or interrupted, before each of its files':
        ['a_preparation_cut_short'],
    'the same command again; a foreign, older or finished run in the folder':
        ['a_run_learns_and_leaves', 'a_foreign_run', 'best_without_a_last', 'finishes_meanwhile'],
    'disk full: at a checkpoint, the last one, the log, in preparation; a place that cannot be written':
        ['a_full_disk_costs', 'failing_final_save', 'a_log_that_cannot', 'on_a_full_disk', 'the_disk_lost',
         'a_place_that_cannot', 'refuses_is_told'],
    'checkpoint: each of its bits flipped': ['every_single_bit'],
    'checkpoint: cut after each of its bytes': ['every_cut_is_found_in'],
    'checkpoint: last.pt, or both, or a named one damaged':
        ['damaged_last_gives_way', 'damage_of_both', 'gives_way_to_no_other'],
    'checkpoint: hostile': ['a_hostile_checkpoint'],
    'config: hostile': ['nothing_is_executed', 'no_name_and_literal'],
    'checkpoint of another model, shape, vocabulary or format':
        ['of_other_data_or_shapes', 'of_another_model', 'of_every_format', 'that_cannot_be_used'],
    'checkpoint saved under compile and loaded without, and back': ['saved_under_compile'],
    'NaN or inf in loss or gradient: once, or without end; BatchNorm, two optimizers, float16':
        ['a_step_that_is_not_finite', 'nothing_finite_is_skipped', 'without_an_end'],
    'a gradient a million times as large': ['a_million_times'],
    'out of memory': ['out_of_memory'],
    'damaged data: cut, empty, missing, beyond the vocabulary, meta.json edited':
        ['a_damaged_file_is_named', 'a_damaged_meta', 'train_finds_damaged', 'damaged_offsets',
         'hashes_find', 'values_beyond', 'integers_that_do_not_fit'],
    'download: 404, 503, HTML, wrong or cut bytes, Range ignored, hang':
        ['a_host_that_fails', 'where_nobody_answers', 'a_part_is_continued', 'without_a_known_hash',
         'of_other_bytes', 'that_does_not_fit_is_fetched', 'next_host'],
    'a poisoned cache of tiktoken': ['poisoned'],
    'hostile archive: paths, links, devices, bombs, cuts':
        ['of_an_archive', 'out_of_the_folder', 'not_a_regular_file', 'member_that_is_too_large'],
    'two runs in one folder; a dead one\'s lock': ['of_two_runs'],
    'a process of two dies': ['if_a_rank_dies', 'torchrun_starts_it_again'],
    'processes that disagree': ['ranks_that_disagree'],
    'the compiler fails, or is not there': ['a_compiler_that_fails', 'without_a_compiler'],
    'nobody reads the output, or it goes to a full disk': ['nobody_reads_on', 'closed_pipe'],
    'another folder, a path with spaces and accents, no locale; read-only data; another machine':
        ['another_place', 'read_only', 'moves_to_a_machine'],
    'a clock that stands still or jumps': ['a_clock']}


def survived():
    """{fault: (injected, survived)}, by running the tests."""
    parts = {part: fault for fault, parts in FAULTS.items() for part in parts}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, 'report.xml')
        subprocess.run([sys.executable, '-m', 'pytest', '-q', '-o', 'junit_family=xunit1',
                        f'--junitxml={report}', '-k', ' or '.join(parts),
                        *(f'tests/{name}' for name in FILES)], cwd=ROOT)
        counts, missing = {fault: [0, 0] for fault in FAULTS}, set(parts)
        for case in ElementTree.parse(report).iter('testcase'):
            part = next(part for part in parts if part in case.get('name').split('[')[0])
            missing.discard(part)
            n = int(next((p.get('value') for p in case.iter('property') if p.get('name') == 'injected'), 1))
            if case.find('skipped') is None:
                counts[parts[part]][0] += n
                counts[parts[part]][1] += n * (case.find('failure') is None and case.find('error') is None)
    assert not missing, f'no test is called {missing}'
    return counts


def cost(turns=15):
    """(seconds of torch.save and fsync, seconds of save_checkpoint), medians of saving 64 MB in turns."""
    state = {'model': {str(i): torch.randn(2**20) for i in range(16)}}
    found = [], []
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        for _ in range(turns):
            start = time.monotonic()
            with open(Path(folder, 'plain.pt'), 'wb') as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            found[0].append(time.monotonic() - start)
            start = time.monotonic()
            save_checkpoint(Path(folder, 'last.pt'), state)
            found[1].append(time.monotonic() - start)
    return tuple(map(statistics.median, found))


if __name__ == '__main__':
    plain, safe = cost()
    counts = survived()
    found = versions()
    rows = '\n'.join(f'| {fault} | {n:,} | {held:,} |' for fault, (n, held) in counts.items())
    text = f"""# Nothing lost

Faults injected by the tests, on a CPU and without a network, and how many were survived: the run went on
to the same numbers, or ended with its exit code and in words; nothing saved was lost, nothing damaged used.

| fault | injected | survived |
| --- | --- | --- |
{rows}

Saving 64 MB, forced to the disk, read back, its predecessor kept, takes {safe / plain:.2f} x as long as
`torch.save` and `fsync` alone: medians of 15 in turns, {safe:.2f} s and {plain:.2f} s.

torch {found['torch']}, Python {found['python']}, {machine_name('cpu')}, commit {found['git']}

`python tests/reliability.py`
"""
    (ROOT / 'results/reliability.md').write_text(text, encoding='utf-8')
    print(text)
