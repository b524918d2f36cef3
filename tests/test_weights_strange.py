"""Files from elsewhere: wrappers are taken off by rule, and what is no usable weight is named in a sentence."""

import datetime
import io
import os
import pickle
import shutil
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from gpen.archs import build_network
from gpen.errors import UserError
from gpen.restoration.export import export_generator
from gpen.weights.files import DISCRIMINATOR_WRAPPERS, load_weights
from gpen.weights.networks import fit_weights, load_generator
from gpen.weights.prior import load_decoder

TINY = {'type': 'GPEN', 'size': 8, 'style_dim': 4, 'n_mlp': 2, 'narrow': 1 / 64}
TINY_D = {'type': 'GPENDiscriminator', 'size': 8, 'narrow': 1 / 64}

State = dict[str, Tensor]


def make(options: dict[str, Any], seed: int = 0) -> State:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return dict(build_network(options).state_dict())


GOOD, RAW, CRITIC = make(TINY, 1), make(TINY, 2), make(TINY_D, 3)


def put(prefix: str, state: State) -> State:
    return {f'{prefix}{name}': value for name, value in state.items()}


def average(state: State) -> dict[str, Any]:
    network = build_network(TINY)
    network.load_state_dict(state)
    averaged = AveragedModel(network)
    averaged.n_averaged += 7
    return averaged.state_dict()


WRAPPED: dict[str, Any] = {
    'plain': GOOD,
    'compiled': put('_orig_mod.', GOOD),
    'compiled and parallel': put('_orig_mod.module.', GOOD),
    'thrice': {'state_dict': put('module._orig_mod.module.', GOOD)},
    'lightning': {
        'epoch': 3,
        'pytorch-lightning_version': '2.4',
        'state_dict': {**put('net_g.', GOOD), **put('net_d.', CRITIC), **put('criterion.vgg.', {'x': torch.ones(3)})},
        'optimizer_states': [{'state': {0: {'exp_avg': torch.ones(2)}}}],
    },
    'lightning with an EMA': {'state_dict': {**put('net_g.', RAW), **put('net_g_ema.', GOOD), **put('net_d.', CRITIC)}},
    'smooth': {'generator': RAW, 'discriminator': CRITIC, 'generator_smooth': GOOD},
    'generator alone': {'generator': GOOD, 'discriminator': CRITIC},
    'names of ours in a prefix': put('generator.', GOOD),
    'deep': {'models': {'G': {'weights': GOOD}, 'D': {'weights': CRITIC}}},
    'averaged': {'model': RAW, 'averaged_model': average(GOOD)},
    'averaged, flat': average(GOOD),
    'counter beside them': {**GOOD, 'n_averaged': torch.tensor(3), 'global_step': 40},
    'ema library': {**put('online_model.', RAW), **put('ema_model.', GOOD), 'step': torch.tensor(9)},
    'unheard of': {'student': {'backbone': put('wrapped.inner.', GOOD)}, 'teacher_stats': {'mean': torch.ones(4)}},
    'numpy numbers': {'params': GOOD, 'psnr': np.float64(30), 'epoch': np.int32(4), 'history': np.arange(4.0)},
    'objects': {'params': GOOD, 'when': datetime.date(2020, 1, 2), 'share': Fraction(1, 3), 'file': Path('a.yml')},
}


@pytest.mark.parametrize('name', WRAPPED)
def test_a_generator_is_found_in_whatever_is_around_it(tmp_path: Path, name: str) -> None:
    torch.save(WRAPPED[name], tmp_path / 'net.pth')
    network, _ = load_generator(tmp_path / 'net.pth')
    found = network.state_dict()
    assert all(torch.equal(found[key], value) for key, value in GOOD.items())

    # The same for a network whose names are known, and for the decoder of a prior.
    decoder = build_network(TINY)
    names = decoder.state_dict().__contains__
    assert set(load_weights(tmp_path / 'net.pth', names=names)) == set(GOOD)
    load_decoder(decoder, tmp_path / 'net.pth')
    assert torch.equal(decoder.state_dict()['generator.input.input'], GOOD['generator.input.input'])


@pytest.mark.parametrize(
    'name', [name for name, content in WRAPPED.items() if 'net_d' in str(content) or 'D' in content]
)
def test_the_discriminator_beside_a_generator_is_found(tmp_path: Path, name: str) -> None:
    torch.save(WRAPPED[name], tmp_path / 'net.pth')
    network = build_network(TINY_D)
    names = network.state_dict().__contains__
    state = load_weights(tmp_path / 'net.pth', prefer=DISCRIMINATOR_WRAPPERS, names=names)
    assert all(torch.equal(state[key], value) for key, value in CRITIC.items())


def test_a_file_may_say_where_with_dots(tmp_path: Path) -> None:
    torch.save({'a': {'b': RAW, 'c': GOOD}}, tmp_path / 'net.pth')
    assert torch.equal(load_weights(tmp_path / 'net.pth', 'a.b')['final_linear.0.bias'], RAW['final_linear.0.bias'])
    with pytest.raises(UserError, match=r"no weights under param_key 'a\.d'"):
        load_weights(tmp_path / 'net.pth', 'a.d')


def test_what_is_left_out_unread_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(WRAPPED['objects'], tmp_path / 'net.pth')
    load_generator(tmp_path / 'net.pth')
    assert 'was left out, unread: datetime.date, ' in caplog.text
    caplog.clear()
    torch.save(WRAPPED['numpy numbers'], tmp_path / 'net.pth')
    load_generator(tmp_path / 'net.pth')
    assert caplog.text == ''


class Trap:
    """Would write a file when unpickled."""

    def __init__(self, path: Path, code: Callable[..., Any]) -> None:
        self.what = code, (f'open({str(path)!r}, "w").close()',)

    def __reduce__(self) -> Any:
        return self.what


@pytest.mark.parametrize('code', [exec, eval, pickle.loads, __import__('os').system, __import__('subprocess').Popen])
@pytest.mark.parametrize('legacy', [False, True])
def test_no_object_beside_the_weights_is_ever_made(tmp_path: Path, code: Callable[..., Any], legacy: bool) -> None:
    content = {'params': GOOD, 'x': Trap(tmp_path / 'ran', code)}
    torch.save(content, tmp_path / 'net.pth', _use_new_zipfile_serialization=not legacy)
    try:
        load_generator(tmp_path / 'net.pth')
    except UserError as error:
        assert 'was not loaded: it holds more than tensors' in str(error)  # noqa: PT017
    assert not (tmp_path / 'ran').exists()


# --- what is no file of weights


def zip_of(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w') as archive:
        for name, content in members.items():
            archive.writestr(name.replace('__', '.').replace('_of_', '/'), content)
    return stream.getvalue()


def tar_of(content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode='w') as archive:
        info = tarfile.TarInfo('net.pth')
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def array_file() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ones(3))
    return stream.getvalue()


def program() -> bytes:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), stream)  # type: ignore[no-untyped-call]
    return stream.getvalue()


NVIDIA = b'\x80\x04}(\x8c\x01G\x8c\x17torch_utils.persistence\x8c\x1a_reconstruct_persistent_obj\x93.'
STRANGERS: dict[str, tuple[bytes, str]] = {
    'nvidia': (NVIDIA, "pickle of NVIDIA's StyleGAN code.*convert_weight.py"),
    'nvidia tensorflow': (b'\x80\x03cdnnlib.tflib.network\nNetwork\nq\x00)\x81.', "pickle of NVIDIA's"),
    'pickle': (pickle.dumps({'a': 1}), 'pickle of Python objects'),
    'lfs': (b'version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 284\n', 'Git LFS pointer.*git lfs pull'),
    'page': (b'\n<!DOCTYPE html><html><head><title>Sign in</title>', 'is a web page'),
    'page with a mark': (b'\xef\xbb\xbf<HTML lang="en"><body>', 'is a web page'),
    'xml': (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', r'answer of a server \(XML\)'),
    'json': (b'{"message": "Not Found", "status": "404"}', 'file of JSON'),
    'text': ('Too many requests für Sie, '.encode() * 400, "a text that begins with 'Too many requests"),
    'zip': (zip_of(readme__txt=b'', models_of_GPEN__pth=b'1'), r'zip archive around models/GPEN\.pth\. Unpack it'),
    'other zip': (zip_of(a__txt=b'', b__txt=b''), r'zip archive without weights \(a\.txt, b\.txt\)'),
    'tar': (tar_of(b'1'), 'is an archive.*Unpack it'),
    'gzip': (b'\x1f\x8b\x08\0' + bytes(40), 'is a compressed file.*Unpack it'),
    '7z': (b'7z\xbc\xaf\x27\x1c' + bytes(40), 'is an archive'),
    'onnx': (b'\x08\x08\x12\x07pytorch' + bytes(40), r'is an ONNX file.*ends in \.onnx'),
    'keras': (b'\x89HDF\r\n\x1a\n' + bytes(40), 'is an HDF5 file'),
    'array': (array_file(), 'is an array of NumPy'),
    'image': (b'\x89PNG\r\n\x1a\n' + bytes(40), 'is an image'),
    'script': (program(), 'is a TorchScript program'),
    'empty': (b'', 'is empty'),
    'of another library': (b'lmgg\xff\0\1' + bytes(40), 'no checkpoint at all: it does not begin|no ONNX file'),
    'zeros': (bytes(5000), 'nothing but zeros'),
}


@pytest.mark.parametrize('suffix', ['pth', 'pkl', 'safetensors', 'onnx'])
@pytest.mark.parametrize('name', STRANGERS)
def test_what_is_no_checkpoint_is_recognised_by_its_first_bytes(tmp_path: Path, name: str, suffix: str) -> None:
    from gpen.restoration.loading import load_restorer

    content, words = STRANGERS[name]
    path = tmp_path / f'net.{suffix}'
    path.write_bytes(content)
    if suffix == 'onnx' and name == 'onnx':
        words = 'is damaged'
    with pytest.raises(UserError, match=f'net.{suffix} .*{words}') as caught:
        load_restorer(path, torch.device('cpu'))
    assert '\n' not in str(caught.value)


def test_an_onnx_file_in_place_of_weights_is_not_asked_for_another_name(tmp_path: Path) -> None:
    (tmp_path / 'net.onnx').write_bytes(STRANGERS['onnx'][0])
    with pytest.raises(UserError, match=r'is an ONNX file\. Here, give the checkpoint that it was exported from\.'):
        load_weights(tmp_path / 'net.onnx')


def test_the_content_says_what_a_file_is_not_its_name(tmp_path: Path) -> None:
    from gpen.restoration.loading import load_restorer

    torch.save(GOOD, tmp_path / 'net.safetensors')
    save_file(GOOD, tmp_path / 'net.pth')
    for name in ('net.safetensors', 'net.pth'):
        assert torch.equal(load_weights(tmp_path / name)['final_linear.0.bias'], GOOD['final_linear.0.bias'])
        (tmp_path / name).rename(tmp_path / 'net.onnx')
        assert load_restorer(tmp_path / 'net.onnx', torch.device('cpu')).size == 8


@pytest.mark.parametrize('suffix', ['pth', 'onnx'])
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path: Path, suffix: str) -> None:
    from gpen.restoration.loading import load_restorer

    places = {name: tmp_path / f'{name}.{suffix}' for name in ('pipe', 'folder', 'ring', 'nowhere')}
    os.mkfifo(places['pipe'])
    places['folder'].mkdir()
    places['ring'].symlink_to(places['ring'])
    for path in (*places.values(), tmp_path / ('x' * 300 + '.' + suffix)):
        with pytest.raises(UserError, match=r'(Cannot read|There is no file) .*\.(pth|onnx)'):
            load_restorer(path, torch.device('cpu'))


# --- what is no weight


KINDS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    'sparse': (lambda value: value.to_sparse(), 'sparse tensors'),
    'rows': (lambda value: value.reshape(len(value), -1).to_sparse_csr(), 'sparse tensors'),
    'nested': (lambda value: torch.nested.nested_tensor([value[0], value[:1, 0]]), 'sparse tensors'),
    'meta': (lambda value: value.to('meta'), 'tensors without values'),
    'quantised': (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), 'quantised tensors'),
    'complex': (lambda value: value.to(torch.complex64), 'complex numbers'),
    'int8': (lambda value: value.to(torch.int8), '1 of another type.*file int8, network float32'),
    'int64': (lambda value: value.to(torch.int64), 'file int64, network float32'),
    'bool': (lambda value: value.to(torch.bool), 'file bool, network float32'),
    'nan': (lambda value: value.index_fill(0, torch.tensor(0), torch.nan), 'is spoilt: 1 of its .* not finite'),
    'inf': (lambda value: value.index_fill(0, torch.tensor(0), -torch.inf), 'is spoilt'),
    'too large for float32': (lambda value: value.double() + 1e300, 'is spoilt'),
}


@pytest.mark.parametrize('strict', [True, False])
@pytest.mark.parametrize('name', KINDS)
def test_a_tensor_that_is_no_weight_is_named(tmp_path: Path, name: str, strict: bool) -> None:
    change, words = KINDS[name]
    key = 'ecd0.0.0.weight'
    path = tmp_path / 'net.pth'
    torch.save({'params_ema': {**GOOD, key: change(GOOD[key])}}, path)
    with pytest.raises(UserError, match=words) as caught:
        load_generator(path)
    assert key in str(caught.value)
    assert str(path) in str(caught.value)

    # Nor are they loaded where what does not fit is left out: integers are left out by name, the others refused.
    network = build_network(TINY)
    names = network.state_dict().__contains__
    try:
        left_out = fit_weights(network, load_weights(path, names=names), path, strict)
    except UserError:
        return
    assert list(left_out.retyped) == [key]


@pytest.mark.parametrize('kind', [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_numbers_are_weights(tmp_path: Path, kind: torch.dtype) -> None:
    torch.save({name: value.to(kind) for name, value in GOOD.items()}, tmp_path / 'net.pth')
    network, _ = load_generator(tmp_path / 'net.pth')
    assert torch.equal(network.state_dict()['ecd0.0.0.weight'], GOOD['ecd0.0.0.weight'].to(kind).float())


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_each_flipped_bit_of_a_tensor_is_noticed(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f'net.{suffix}'
    torch.save({'params_ema': GOOD}, tmp_path / 'good.pth')
    shutil.copy(tmp_path / 'good.pth', path)
    if suffix == 'safetensors':
        export_generator(tmp_path / 'good.pth', 'safetensors', path, overwrite=True)
    whole = path.read_bytes()
    values = GOOD['generator.style.1.weight'].numpy().tobytes()
    start = whole.index(values)
    for position, bit in [(0, 0), (1, 3), (len(values) // 2, 7), (len(values) - 1, 6)]:
        content = bytearray(whole)
        content[start + position] ^= 1 << bit
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf'net\.{suffix} is damaged: .* are not those that were written'):
            load_generator(path)


def test_safetensors_of_other_programs_have_no_digest_and_are_read(tmp_path: Path) -> None:
    save_file(GOOD, tmp_path / 'net.safetensors', {'format': 'pt'})
    network, _ = load_generator(tmp_path / 'net.safetensors')
    state = network.state_dict()
    assert all(torch.equal(state[name], values) for name, values in GOOD.items())


@pytest.mark.skipif(not hasattr(torch.serialization, 'set_crc32_options'), reason='a newer option of torch')
def test_a_file_that_was_saved_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(GOOD, tmp_path / 'net.pth')
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(tmp_path / 'net.pth') as archive:
        assert not any(part.CRC for part in archive.infolist())
    network, _ = load_generator(tmp_path / 'net.pth')
    state = network.state_dict()
    assert all(torch.equal(state[name], values) for name, values in GOOD.items())


def test_twenty_thousand_unknown_keys_take_no_time(tmp_path: Path) -> None:
    many = {f'some.other.layer.{n}.weight': torch.zeros(1) for n in range(20_000)}
    torch.save({**GOOD, **many}, tmp_path / 'net.pth')
    network = build_network(TINY)
    state = load_weights(tmp_path / 'net.pth', names=network.state_dict().__contains__)
    started = time.perf_counter()
    with pytest.raises(UserError, match='20000 unknown to the network') as caught:
        fit_weights(network, state, tmp_path / 'net.pth', strict=False)
    assert time.perf_counter() - started < 2
    assert len(str(caught.value)) < 1000


def test_sizes_that_a_file_claims_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / 'net.pth'
    torch.save({**GOOD, 'generator.style.1.weight': torch.zeros(1).expand(10**6, 10**6)}, path)
    with pytest.raises(UserError, match=r'of more values than there are in the file \(generator\.style\.1\.weight\)'):
        load_generator(path)
    long = torch.zeros(10**6, 1)
    torch.save({**GOOD, 'generator.style.1.weight': long, 'final_linear.0.weight': long}, path)
    with pytest.raises(UserError, match='not the weights of a GPEN generator'):
        load_generator(path)


def test_a_length_that_safetensors_claim_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / 'net.safetensors').write_bytes(struct.pack('<Q', 2**39) + b'{"a":1}')
    with pytest.raises(UserError, match='is damaged'):
        load_weights(tmp_path / 'net.safetensors')
