"""Folders of a user's own files: what is in them, also behind links, and names that are written alike."""
import os
import unicodedata

from core.errors import UserError


def entries(folder):
    """Return what is in a folder, sorted, without what is hidden. Raises UserError if it cannot be listed."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f'{folder}: {error.strerror}: expected a folder', code=3)
    return [path for path in paths if not path.name.startswith('.')]


def files_below(folder, above=()):
    """Return the files below a folder, sorted, also those behind links; `above`: the folders it is in.

    A link that leads nowhere counts as a file, so that reading it fails. Raises UserError for a link to one
    of the folders above, which would never end.
    """
    real = os.path.realpath(folder)
    if real in above:
        raise UserError(f'{folder}: a link to a folder that it is in', code=3)
    files = []
    for path in entries(folder):
        if path.is_dir():
            files += files_below(path, (*above, real))
        elif path.is_file() or not path.exists():
            files.append(path)
    return files


def find_named(folder, names):
    """Return the sub-folder that has one of `names`, in upper or lower case, or None.

    Raises UserError if there are several.
    """
    found = [path for path in entries(folder) if path.is_dir() and path.name.lower() in names]
    if len(found) > 1:
        raise UserError(f'{folder}: expected one of {", ".join(path.name for path in found)}', code=3)
    return found[0] if found else None


def print_unused(folder, used):
    """Print which sub-folders of a folder are not among the `used` ones."""
    unused = [path.name for path in entries(folder) if path.is_dir() and path not in used]
    if unused:
        print(f'{folder}: not used: {", ".join(unused)}')


def composed(name):
    """Return a name in Unicode's form NFC: a Mac writes é as two characters, e and an accent."""
    return unicodedata.normalize('NFC', str(name))
