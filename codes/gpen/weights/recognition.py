"""What a file that should hold weights is instead, by its first bytes."""

import codecs
import errno
import re
import zipfile
from pathlib import Path

from gpen.utils.text import list_names, shorten

TORCH_LEGACY = (
    b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'  # the number that torch.save wrote before its files were zips
)
ZIP = b'PK'
_LOOK = 1 << 20  # bytes in which the names of a pickle's classes are looked for
_HEADER = 4096
_SHORTEST_TEXT = 12

_AGAIN = 'Download the file itself'
_UNPACK = 'Unpack it, and give the weights that are inside'
_STRANGE = 'Choose another file'
_ONNX = 'an ONNX file'
_NVIDIA = re.compile(rb'dnnlib|torch_utils[./\n]|training[.]networks')

_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (rb'version https://git-lfs', 'a Git LFS pointer, a note about the file', 'Run git lfs pull, or download it'),
    (rb'(?i)\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body)', 'a web page', _AGAIN + ', not the page that shows it'),
    (rb'\s*<\?xml|\s*<Error', 'an answer of a server (XML)', _AGAIN),
    (rb'\s*[{[]\s*["{[]', 'a file of JSON', _AGAIN),
    (rb'\x1f\x8b|BZh|\xfd7zXZ\0|\x28\xb5\x2f\xfd', 'a compressed file', _UNPACK),
    (rb'7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|.{257}ustar', 'an archive', _UNPACK),
    (rb'[\x08][\x01-\x20](\x12|\x3a|\x1a|\x42)', _ONNX, 'Give it a name that ends in .onnx'),
    (rb'\x89HDF\r\n', 'an HDF5 file, such as Keras writes', _STRANGE),
    (rb'\x93NUMPY', 'an array of NumPy', _STRANGE),
    (rb'GGUF|.{4}TFL3', 'a file for another library', _STRANGE),
    (rb'\x89PNG|\xff\xd8\xff|GIF8|RIFF.{4}WEBP|.{4}ftyp', 'an image or a film', _STRANGE),
    (rb'%PDF|\x7fELF|MZ', 'a document or a program', _STRANGE),
)


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is in the format safetensors: a length in 8 bytes, then JSON."""
    return head[8:9] == b'{' and head[5:8] == bytes(3)


def is_weights(head: bytes) -> bool:
    """Whether a file that begins with ``head`` may be one of ``torch.save`` or safetensors, and no other kind."""
    return head.startswith((ZIP, TORCH_LEGACY)) or is_safetensors(head)


def read_head(path: Path) -> bytes:
    """Return the first bytes of a file.

    Raises:
        OSError: it cannot be read, or is no file but a named pipe, for which one would wait for ever, or a device.
    """
    if path.exists() and not path.is_dir() and not path.is_file():
        raise OSError(errno.EINVAL, 'it is no file, but a named pipe, a socket or a device')
    with path.open('rb') as stream:
        return stream.read(_HEADER)


def name_stranger(path: Path, head: bytes) -> str | None:
    """Return what a file is that holds no weights as we can read them, and what to do; None where it may hold some.

    Args:
        path: the file.
        head: its first bytes, see :func:`read_head`.

    Returns:
        Words that continue a sentence beginning with the path, such as ``is a web page. Download ...``.
    """
    if not head:
        return f'is empty. {_AGAIN}.'
    if not head.strip(b'\0') and not _read(path).strip(b'\0'):
        return 'holds nothing but zeros, as a download that was cut off does. Download it again.'
    if TORCH_LEGACY.startswith(head[: len(TORCH_LEGACY)]) or is_safetensors(head):
        return None
    if head.startswith(ZIP):
        return _name_archive(path)
    if re.match(rb'\x80[\x02-\x05]', head):
        return _name_pickle(_read(path))

    for pattern, what, advice in _KINDS:
        if re.match(pattern, head.removeprefix(b'\xef\xbb\xbf'), re.DOTALL):  # a byte order mark
            is_named = what == _ONNX and path.suffix.lower() == '.onnx'
            return f'is {what}. {"Here, give the checkpoint that it was exported from" if is_named else advice}.'
    if _is_text(head):
        words = shorten(head.decode(errors='ignore').strip(), 40)
        return f'is a text that begins with {words!r}. {_AGAIN}.'
    return None


def _name_archive(path: Path) -> str | None:
    """Name a zip that torch.save did not write; None for one of torch's, and for one that is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None
    inner = {name.rpartition('/')[2] for name in names}

    if 'data.pkl' in inner and 'constants.pkl' in inner:
        return (
            'is a TorchScript program, not a state dict. Where it comes from, save its weights alone '
            '(torch.save(network.state_dict(), path)).'
        )
    if 'data.pkl' in inner:
        return None
    weights = [name for name in names if re.search(r'\.(pth|pt|ckpt|bin|safetensors|onnx|pkl)$', name, re.IGNORECASE)]
    if not weights:
        return f'is a zip archive without weights ({list_names(names) or "it is empty"}). {_STRANGE}.'
    return f'is a zip archive around {list_names(weights)}. {_UNPACK}.'


def _name_pickle(content: bytes) -> str:
    if _NVIDIA.search(content):
        return (
            "is a pickle of NVIDIA's StyleGAN code, which only that code can read. Convert it there: for a GAN prior, "
            'convert_weight.py of stylegan2-pytorch writes a file that can be read here.'
        )
    return (
        'is a pickle of Python objects that torch.save did not write. Where it comes from, save the state dict with '
        'torch.save(network.state_dict(), path).'
    )


def _is_text(head: bytes) -> bool:
    """Whether a file begins with printable characters; a few bytes may be the start of anything."""
    try:
        text = codecs.getincrementaldecoder('utf-8')().decode(head)  # a character may be cut at the end
    except UnicodeDecodeError:
        return False
    return len(text) >= _SHORTEST_TEXT and all(character.isprintable() or character.isspace() for character in text)


def _read(path: Path) -> bytes:
    with path.open('rb') as stream:
        return stream.read(_LOOK)
