package gguf

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/coppice-lm/coppice/tensor"
)

// MaxTensorName is the most bytes of a tensor's name that llama.cpp loads: GGML_MAX_NAME
// less its final zero.
const MaxTensorName = 63

// Layout says what the files of a model look like before any of its data is there: the
// header of each part, whole, and where each tensor goes. The data can then be written in
// one pass, in the order of the tensors.
type Layout struct {
	Parts []Part
}

// Part is one file of a model.
type Part struct {
	Header  []byte  // everything before the data, padding included
	Tensors []Entry // with absolute ranges, in the order given
	Size    int64   // of the whole file, in bytes
}

// NewLayout lays a model out as version 3 with the default alignment of 32. Metadata and
// tensors keep their order. A part has at most maxPart bytes of tensors, and at least one
// tensor; maxPart 0 means one part. Where there are more, each has the keys split.no,
// split.count and split.tensors.count, and the first alone has the rest of the metadata,
// as llama.cpp's gguf-split does it.
//
// A tensor of an element type, a rank or a name that llama.cpp does not load, and a
// name or key that comes twice, is an error.
func NewLayout(kv []KeyValue, tensors []tensor.Info, maxPart int64) (*Layout, error) {
	if err := checkNames(kv, tensors); err != nil {
		return nil, err
	}
	var groups [][]tensor.Info
	var size int64
	for _, t := range tensors {
		n, err := t.Bytes()
		if err != nil {
			return nil, err
		}
		if len(groups) == 0 || maxPart > 0 && size > 0 && size+n > maxPart {
			groups, size = append(groups, nil), 0
		}
		groups[len(groups)-1] = append(groups[len(groups)-1], t)
		size += n
	}
	if len(groups) == 0 {
		groups = [][]tensor.Info{nil}
	}
	const maxParts = 1<<16 - 1 // split.no and split.count are uint16, names have five digits
	if len(groups) > maxParts {
		return nil, fmt.Errorf("%d parts, more than the %d that can be numbered; allow larger parts", len(groups), maxParts)
	}
	l := &Layout{}
	for i, group := range groups {
		var keys []KeyValue
		if i == 0 {
			keys = append(keys, kv...)
		}
		if len(groups) > 1 {
			keys = append(keys,
				KeyValue{"split.no", Uint16Value(uint16(i))},
				KeyValue{"split.count", Uint16Value(uint16(len(groups)))},
				KeyValue{"split.tensors.count", Int32Value(int32(len(tensors)))})
		}
		l.Parts = append(l.Parts, layPart(keys, group))
	}
	return l, nil
}

// layPart lays one file out. The names and types have been checked.
func layPart(kv []KeyValue, tensors []tensor.Info) Part {
	h := binary.LittleEndian.AppendUint32([]byte(magic), 3)
	h = binary.LittleEndian.AppendUint64(h, uint64(len(tensors)))
	h = binary.LittleEndian.AppendUint64(h, uint64(len(kv)))
	for _, p := range kv {
		h = appendString(h, p.Key)
		h = binary.LittleEndian.AppendUint32(h, uint32(p.Value.Type))
		h = append(h, p.Value.Data...)
	}
	p := Part{}
	var end int64 // of the data so far, from its start
	for _, t := range tensors {
		n, _ := t.Bytes() // was computed before
		h = appendString(h, t.Name)
		h = binary.LittleEndian.AppendUint32(h, uint32(len(t.Shape)))
		for i := len(t.Shape) - 1; i >= 0; i-- {
			h = binary.LittleEndian.AppendUint64(h, uint64(t.Shape[i]))
		}
		number, _ := TypeNumber(t.DType)
		h = binary.LittleEndian.AppendUint32(h, number)
		begin := (end + defaultAlignment - 1) &^ (defaultAlignment - 1)
		h = binary.LittleEndian.AppendUint64(h, uint64(begin))
		end = begin + n
		p.Tensors = append(p.Tensors, Entry{t, begin, end})
	}
	h = append(h, make([]byte, -len(h)&(defaultAlignment-1))...)
	start := int64(len(h))
	for i := range p.Tensors {
		p.Tensors[i].Begin += start
		p.Tensors[i].End += start
	}
	// ggml reads the last tensor's padding too.
	p.Header, p.Size = h, start+(end+defaultAlignment-1)&^(defaultAlignment-1)
	return p
}

func checkNames(kv []KeyValue, tensors []tensor.Info) error {
	keys := map[string]bool{}
	for _, p := range kv {
		switch {
		case p.Key == "" || len(p.Key) > maxNameBytes:
			return fmt.Errorf("key %q has %d bytes, the format allows 1 to %d", p.Key, len(p.Key), maxNameBytes)
		case keys[p.Key]:
			return fmt.Errorf("key %q comes twice", p.Key)
		case p.Key == alignmentKey || strings.HasPrefix(p.Key, "split."):
			return fmt.Errorf("key %q is the layout's to set", p.Key)
		}
		keys[p.Key] = true
	}
	names := map[string]bool{}
	for _, t := range tensors {
		switch {
		case t.Name == "" || len(t.Name) > MaxTensorName:
			return fmt.Errorf("tensor %q has a name of %d bytes, llama.cpp loads 1 to %d", t.Name, len(t.Name), MaxTensorName)
		case names[t.Name]:
			return fmt.Errorf("tensor %q comes twice", t.Name)
		case len(t.Shape) < 1 || len(t.Shape) > maxDims:
			return fmt.Errorf("tensor %q has %d dimensions, the format allows 1 to %d", t.Name, len(t.Shape), maxDims)
		}
		if _, ok := TypeNumber(t.DType); !ok {
			return fmt.Errorf("tensor %q: GGUF has no element type %v", t.Name, t.DType)
		}
		names[t.Name] = true
	}
	return nil
}

// TypeNumber is the number that ggml gives to an element type, and whether it has one.
func TypeNumber(d tensor.DType) (uint32, bool) {
	for n, row := range tensorTypes {
		if row.dtype == d && d != tensor.Invalid {
			return n, true
		}
	}
	return 0, false
}

func appendString(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
	return append(b, s...)
}

// SplitName is the name of part i (from 0) of count that belongs to path, as llama.cpp
// numbers them: NAME-00001-of-00003.gguf for NAME.gguf. One part alone keeps its name.
func SplitName(path string, i, count int) string {
	if count == 1 {
		return path
	}
	return fmt.Sprintf("%s-%05d-of-%05d.gguf", strings.TrimSuffix(path, ".gguf"), i+1, count)
}
