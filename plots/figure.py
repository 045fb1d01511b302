"""What all plots share: figures, their colors, heatmaps."""
from matplotlib.figure import Figure        # without pyplot, which opens windows and keeps state

from core.errors import UserError

COLORS = [              # Okabe & Ito 2008: also for the color-blind
    '#0072b2',          # blue
    '#d55e00',          # vermilion
    '#009e73',          # green
    '#cc79a7',          # purple
    '#e69f00',          # orange
    '#56b4e9',          # sky blue
    '#000000',
]


def new_figure(width, height):
    """Return an empty figure, its size in inches."""
    return Figure((width, height), dpi=150, layout='constrained')


def save_figure(figure, out):
    """Write a figure to the file `out` and print its name. Raises UserError if it cannot be written."""
    try:
        figure.savefig(out)
    except (OSError, ValueError) as error:      # no such folder, no such format
        raise UserError(f'--out={out} cannot be written: {error}', code=4)
    print(f'wrote {out}')


def open_axes(axes, which='major'):
    """Give axes a faint grid, of 'major' ticks or of 'both' major and minor, and no frame above or right."""
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(alpha=0.2, which=which)


def heatmap(axes, values, rows, columns, title, size, every=1):
    """Draw a matrix of values between 0 (white) and 1 (blue), with the names of its rows and columns; return
    its image, for a color bar.

    size: of the font, in points. every: 3 for the name of each third row and column.
    """
    image = axes.imshow(values, 'Blues', vmin=0, vmax=1)
    axes.set_xticks(range(0, len(columns), every))
    axes.set_yticks(range(0, len(rows), every))
    # parse_math: a '$' begins no formula
    axes.set_xticklabels(columns[::every], size=size, rotation=90, parse_math=False)
    axes.set_yticklabels(rows[::every], size=size, parse_math=False)
    axes.set_title(title, loc='left', size=size + 2)
    return image
