"""The reliability diagram of a classifier: its bins and the expected calibration error."""
import json

import numpy as np
import pytest

from core.errors import UserError
from plots import reliability


@pytest.fixture
def figures(monkeypatch):
    """The figures that would have been written to files."""
    figures = []
    monkeypatch.setattr(reliability, 'save_figure', lambda figure, out: figures.append(figure))
    return figures


def test_the_calibration_error_of_a_worked_example():
    # two bins: (0, 1/2] has 2 rows, 1 right, mean confidence 0.4; (1/2, 1] has 3 rows, 2 right, mean 0.8
    correct = [True, False, True, True, False]
    confidence = [0.5, 0.3, 0.7, 0.9, 0.8]
    filled, count, accuracy, mean_confidence = reliability.calibration(correct, confidence, bins=2)
    assert filled.tolist() == [0, 1] and count.tolist() == [2, 3]
    assert accuracy == pytest.approx([1 / 2, 2 / 3]) and mean_confidence == pytest.approx([0.4, 0.8])
    error = reliability.calibration_error(count, accuracy, mean_confidence)
    assert error == pytest.approx(2 / 5 * abs(0.5 - 0.4) + 3 / 5 * abs(2 / 3 - 0.8))


@pytest.mark.parametrize('correct, expected', [(True, 0), (False, 1)])
def test_a_certain_prediction_is_in_the_last_bin(correct, expected):
    filled, count, accuracy, mean_confidence = reliability.calibration([correct] * 3, [1.0] * 3)
    assert (filled.tolist(), count.tolist(), accuracy.tolist()) == ([14], [3], [correct])
    assert reliability.calibration_error(count, accuracy, mean_confidence) == expected


def test_calibration_equals_a_slow_loop():
    rng = np.random.default_rng(0)
    confidence = 1 - rng.random(500) * 0.9
    correct = rng.random(500) < confidence**2
    expected_error = 0
    expected_bins = []
    for m in range(15):
        rows = [i for i in range(500) if m / 15 < confidence[i] <= (m + 1) / 15]
        if rows:
            accuracy = sum(correct[rows]) / len(rows)
            mean_confidence = sum(confidence[rows]) / len(rows)
            expected_error += len(rows) / 500 * abs(accuracy - mean_confidence)
            expected_bins.append((m, len(rows), accuracy, mean_confidence))
    found = reliability.calibration(correct, confidence)
    assert np.transpose(found) == pytest.approx(np.array(expected_bins))
    assert reliability.calibration_error(*found[1:]) == pytest.approx(expected_error)
    assert 13 <= len(expected_bins) <= 14 and expected_error > 0.05


def predictions(*rows):
    """Return the lines that sample.py writes for rows (true, predicted, probabilities)."""
    lines = []
    for i, (true, predicted, probabilities) in enumerate(rows):
        row = {'row': i, 'true': true, 'predicted': predicted, 'probabilities': probabilities}
        lines.append(json.dumps(row) + '\n')
    return ''.join(lines)


@pytest.mark.parametrize('path', ['test.jsonl', '.'])       # the file, or the run's folder
def test_a_reliability_diagram_is_of_the_predicted_class(tmp_path, figures, path):
    lines = predictions((0, 0, [0.9, 0.1]), (1, 1, [0.06, 0.94]), (0, 1, [0.3, 0.7]))
    (tmp_path / 'test.jsonl').write_text(lines, encoding='utf-8')
    reliability.draw(tmp_path / path)
    above, below = figures[0].axes
    error = (abs(1 - 0.9) + abs(1 - 0.94) + abs(0 - 0.7)) / 3
    assert above.get_title('left') == (f'test.jsonl: expected calibration error {error:.4f}\n'
                                       '3 rows, accuracy 0.6667, mean confidence 0.8467')
    points = above.lines[1]
    assert points.get_xdata() == pytest.approx([0.7, 0.9, 0.94]) and points.get_ydata().tolist() == [0, 1, 1]
    assert [bar.get_height() for bar in below.patches] == pytest.approx([1 / 3] * 3)
    assert [bar.get_x() for bar in below.patches] == pytest.approx([10 / 15, 13 / 15, 14 / 15])


@pytest.mark.parametrize('text, message', [
    ('', 'is empty'),
    ('7\n', ':1 is not a line'),
    ('{"row": 0}\n', ':1 is not a line'),
    (predictions((0, 0, [0.9, 0.1])) + '{"row": 1, "tru', ':2 is not a line'),
    (predictions((0, 2, [0.9, 0.1])), ':1 is not a line'),
    (predictions((0, 0, [float('nan'), float('nan')])), ':1 is not a line'),
    (predictions((0, 0, [90, 10])), ':1 is not a line'),
    (predictions((0, 0, ['0.9', '0.1'])), ':1 is not a line')])
def test_a_damaged_line_of_predictions_is_an_error_that_names_it(tmp_path, text, message):
    (tmp_path / 'x.jsonl').write_text(text, encoding='utf-8')
    with pytest.raises(UserError, match=message) as caught:
        reliability.draw(tmp_path / 'x.jsonl', str(tmp_path / 'x.png'))
    assert caught.value.code == 3 and not (tmp_path / 'x.png').exists()


def test_the_script_draws_a_reliability_diagram(launch, tmp_path):
    (tmp_path / 'x.jsonl').write_text(predictions((0, 0, [0.9, 0.1])), encoding='utf-8')
    code, text = launch('plot.py', '--what=reliability', 'x.jsonl', '--out=x.png', cwd=tmp_path)
    assert code == 0 and text == 'wrote x.png\n'
    assert (tmp_path / 'x.png').stat().st_size > 10_000
