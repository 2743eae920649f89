// Package gguf reads what a GGUF file says of itself, its metadata and where its tensors
// are, and lays out the files of a model to be written ([NewLayout]). It never touches the
// weights themselves.
//
// A file is the magic "GGUF", a version, two counts, the metadata (keys with typed
// values), the tensors' descriptions, padding, and the data:
//
//	"GGUF" version:u32 tensors:u64 keys:u64
//	keys    × { key:string type:u32 value }
//	tensors × { name:string n:u32 extents:n×u64 type:u32 offset:u64 }
//	padding to general.alignment, else 32, then the data the offsets count from
//
// All numbers are little-endian and a string is a u64 length and its bytes. Extents
// are listed fastest first; [Entry] reverses them, so that a matrix has the shape
// (rows, columns) that it has in safetensors.
//
// [Read] accepts versions 2 and 3, and what llama.cpp accepts in them, but for the
// element types that package tensor does not know, which it refuses by name. It
// expects hostile bytes: it allocates for what is in the file, never for what a count
// claims, and stops where the metadata would need more than 48 MiB of memory (the
// largest vocabulary in use, of 262,144 tokens, takes about 15 MiB).
package gguf

import (
	"fmt"
	"math"

	"github.com/coppice-lm/coppice/tensor"
)

// Names and sizes that the format fixes.
const (
	magic            = "GGUF"
	alignmentKey     = "general.alignment"
	defaultAlignment = 32
	maxDims          = 4     // GGML_MAX_DIMS
	maxNameBytes     = 65535 // the specification's limit for keys, here for tensors too
)

// File is the metadata and the tensors of one GGUF file.
type File struct {
	Version   uint32     // 2 or 3
	KV        []KeyValue // in file order
	Tensors   []Entry    // in file order
	Alignment int64      // of every tensor's data, in bytes: a power of two
	DataStart int64      // the absolute offset that the tensors' offsets count from

	keys map[string]int
}

// KeyValue is one entry of the metadata.
type KeyValue struct {
	Key   string
	Value Value
}

// Entry is a tensor and the absolute byte range [Begin, End) of its data in the file.
// Its shape is in row-major order, slowest extent first: the reverse of the file's.
type Entry struct {
	tensor.Info
	Begin, End int64
}

// Lookup returns the value of a key, and whether the file has it.
func (f *File) Lookup(key string) (Value, bool) {
	i, ok := f.keys[key]
	if !ok {
		return Value{}, false
	}
	return f.KV[i].Value, true
}

// get decodes the value of a key and names the key in the error.
func get[T any](f *File, key string, decode func(Value) (T, error)) (T, error) {
	v, ok := f.Lookup(key)
	if !ok {
		var zero T
		return zero, fmt.Errorf("key %q is missing", key)
	}
	x, err := decode(v)
	if err != nil {
		return x, fmt.Errorf("key %q: %w", key, err)
	}
	return x, nil
}

// String returns the string of a key. Its bytes need not be UTF-8.
func (f *File) String(key string) (string, error) { return get(f, key, Value.Text) }

// Uint returns the number of a key of any integer type, if it is not negative.
func (f *File) Uint(key string) (uint64, error) { return get(f, key, Value.Uint) }

// Int returns the number of a key of any integer type, if it fits.
func (f *File) Int(key string) (int64, error) { return get(f, key, Value.Int) }

// Float returns the number of a key of type float32 or float64.
func (f *File) Float(key string) (float64, error) { return get(f, key, Value.Float) }

// Bool returns the boolean of a key.
func (f *File) Bool(key string) (bool, error) { return get(f, key, Value.Bool) }

// Strings returns the elements of an array of strings. They need not be UTF-8.
func (f *File) Strings(key string) ([]string, error) { return get(f, key, Value.Strings) }

// Ints returns the elements of an array of any integer type, if they all fit.
func (f *File) Ints(key string) ([]int64, error) { return get(f, key, Value.Ints) }

// Floats returns the elements of an array of type float32 or float64.
func (f *File) Floats(key string) ([]float64, error) { return get(f, key, Value.Floats) }

// Bools returns the elements of an array of booleans.
func (f *File) Bools(key string) ([]bool, error) { return get(f, key, Value.Bools) }

// alignment is general.alignment if the file has it, as llama.cpp checks it.
func (f *File) alignment() (int64, error) {
	v, ok := f.Lookup(alignmentKey)
	if !ok {
		return defaultAlignment, nil
	}
	if v.Type != Uint32 {
		return 0, fmt.Errorf("key %q is of type %v, it must be %v", alignmentKey, v.Type, Uint32)
	}
	n, err := v.Uint()
	if err != nil {
		return 0, fmt.Errorf("key %q: %w", alignmentKey, err)
	}
	if n == 0 || n&(n-1) != 0 {
		return 0, fmt.Errorf("key %q is %d, it must be a power of two", alignmentKey, n)
	}
	return int64(n), nil
}

// alignUp is the first multiple of align (a power of two) from n on; ok is false where
// that overflows.
func alignUp(n, align int64) (up int64, ok bool) {
	if n > math.MaxInt64-align {
		return 0, false
	}
	return (n + align - 1) &^ (align - 1), true
}
