"""llama.cpp for the peer checks, through the C interface of llama-cpp-python: models in
float32 with a float32 cache, so that nothing but the file's own types rounds; its
quantiser of blocks; its quantiser of files."""

import contextlib
import ctypes
import glob
import os

import llama_cpp as ll
import numpy as np

_silent = ll.llama_log_callback(lambda level, text, data: None)
ll.llama_log_set(_silent, None)
ll.llama_backend_init()


class Model:
    """A loaded GGUF file. Loading raises where llama.cpp refuses the file."""

    def __init__(self, path, threads, length=512):
        parameters = ll.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = ll.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {path}")
        parameters = ll.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = length
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.type_k = parameters.type_v = 0  # GGML_TYPE_F32
        parameters.flash_attn_type = 0  # LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.swa_full = True
        self.context = ll.llama_init_from_model(self.model, parameters)
        self.vocab = ll.llama_model_get_vocab(self.model)
        self.size = ll.llama_vocab_n_tokens(self.vocab)

    def close(self):
        ll.llama_free(self.context)
        ll.llama_model_free(self.model)

    def tokens(self, text, special=False):
        """The ids of a text, without BOS; special: control tokens in it are recognised."""
        raw = text.encode()
        ids = (ctypes.c_int32 * (len(raw) + 16))()
        n = ll.llama_tokenize(self.vocab, raw, len(raw), ids, len(ids), False, special)
        return list(ids[:n])

    def logits(self, ids):
        """The logits after each position, as float64 [tokens, vocabulary]."""
        ll.llama_memory_clear(ll.llama_get_memory(self.context), True)
        batch = ll.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = token, i
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, 1
        failed = ll.llama_decode(self.context, batch)
        ll.llama_batch_free(batch)
        if failed:
            raise RuntimeError("llama_decode failed")
        return np.ctypeslib.as_array(ll.llama_get_logits(self.context), (len(ids), self.size)).astype(np.float64)

    def likelihood(self, ids):
        """The sum of the log-probabilities of all tokens but the first."""
        rows = self.logits(ids)[:-1]
        rows -= rows.max(axis=-1, keepdims=True)
        rows -= np.log(np.exp(rows).sum(axis=-1, keepdims=True))
        return float(rows[np.arange(len(ids) - 1), ids[1:]].sum())


@contextlib.contextmanager
def loaded(path, threads, length=512):
    model = Model(path, threads, length)
    try:
        yield model
    finally:
        model.close()


_library = ctypes.CDLL(glob.glob(os.path.join(os.path.dirname(ll.__file__), "lib", "libggml-base*"))[0])
_library.ggml_quantize_chunk.restype = ctypes.c_size_t
_library.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]


def quantise_rows(rows, kind, size):
    """float32 rows as bytes of a ggml type, by llama.cpp's own quantiser."""
    rows = np.ascontiguousarray(rows, np.float32)
    out = np.zeros(size, np.uint8)
    done = _library.ggml_quantize_chunk(int(kind), rows.ctypes.data, out.ctypes.data, 0, rows.shape[0], rows.shape[1], None)
    if done != size:
        raise RuntimeError(f"ggml_quantize_chunk made {done} bytes, expected {size}")
    return out


# llama_ftype of each mix
FILE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q4_k_s": 14,
    "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18, "bf16": 32,
}  # fmt: skip


def quantise_file(source, target, mix, threads):
    """Writes a GGUF file in a mix, by llama.cpp's own quantiser."""
    parameters = ll.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = FILE_TYPES[mix], threads
    if ll.llama_model_quantize(os.fsencode(source), os.fsencode(target), parameters) != 0:
        raise RuntimeError(f"llama.cpp could not quantise {source} to {mix}")
