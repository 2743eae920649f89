package safetensors

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/coppice-lm/coppice/tensor"
)

// EncodeHeader lays tensors out one after the other in the order given. It returns all
// bytes of the file before the data (the length, then the JSON, padded with spaces so
// that the data starts at a multiple of 8) and the tensors with their absolute byte
// ranges. The same arguments give the same bytes; metadata may be nil.
//
// It is an error when a name comes twice, is __metadata__ or is not UTF-8, when
// safetensors has no such element type, or when sizes overflow or the header would be
// longer than readers accept.
//
// Data follows data without padding, so a tensor is aligned to its elements only if
// those before it are made of elements at least as wide.
func EncodeHeader(metadata map[string]string, infos []tensor.Info) (prefix []byte, entries []Entry, err error) {
	entries, err = layOut(infos)
	if err != nil {
		return nil, nil, err
	}
	out := make([]byte, lengthBytes, 256+128*len(infos))
	out = append(out, '{')
	if len(metadata) > 0 {
		out = appendString(out, metadataKey)
		out = append(out, ":{"...)
		for i, key := range slices.Sorted(maps.Keys(metadata)) {
			if !utf8.ValidString(key) || !utf8.ValidString(metadata[key]) {
				return nil, nil, fmt.Errorf("metadata %q = %q is not valid UTF-8", key, metadata[key])
			}
			if i > 0 {
				out = append(out, ',')
			}
			out = append(appendString(out, key), ':')
			out = appendString(out, metadata[key])
		}
		out = append(out, '}')
		if len(entries) > 0 {
			out = append(out, ',')
		}
	}
	for i, e := range entries {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendEntry(out, e)
	}
	out = append(out, '}')
	for len(out)%8 != 0 {
		out = append(out, ' ')
	}
	n := len(out) - lengthBytes
	if n > maxHeader {
		return nil, nil, fmt.Errorf("the header takes %d bytes, readers accept %d: use more shards", n, maxHeader)
	}
	binary.LittleEndian.PutUint64(out, uint64(n))

	start := int64(len(out))
	for i := range entries {
		e := &entries[i]
		if e.End > math.MaxInt64-start {
			return nil, nil, fmt.Errorf("tensor %q: it would end beyond what 63 bits can address", e.Name)
		}
		e.Begin += start
		e.End += start
	}
	return out, entries, nil
}

// layOut checks the tensors and gives them offsets from the start of the data.
func layOut(infos []tensor.Info) ([]Entry, error) {
	entries := make([]Entry, 0, len(infos))
	seen := make(map[string]struct{}, len(infos))
	var end int64
	for _, info := range infos {
		if _, dup := seen[info.Name]; dup {
			return nil, fmt.Errorf("tensor %q: the name comes twice", info.Name)
		}
		seen[info.Name] = struct{}{}
		switch {
		case info.Name == metadataKey:
			return nil, fmt.Errorf("tensor %q: the format keeps this name for itself", info.Name)
		case !utf8.ValidString(info.Name):
			return nil, fmt.Errorf("tensor %q: the name is not valid UTF-8", info.Name)
		case info.DType.IsBlock():
			return nil, fmt.Errorf("tensor %q: safetensors has no element type %v", info.Name, info.DType)
		}
		n, err := info.Bytes()
		if err != nil {
			return nil, err
		}
		if n > math.MaxInt64-end {
			return nil, fmt.Errorf("tensor %q: it would end beyond what 63 bits can address", info.Name)
		}
		entries = append(entries, Entry{Info: info, Begin: end, End: end + n})
		end += n
	}
	return entries, nil
}

// appendEntry appends one member of the header; the entry's offsets count from the
// start of the data.
func appendEntry(out []byte, e Entry) []byte {
	out = appendString(out, e.Name)
	out = append(out, `:{"dtype":"`...)
	out = append(out, e.DType.String()...)
	out = append(out, `","shape":[`...)
	for i, d := range e.Shape {
		if i > 0 {
			out = append(out, ',')
		}
		out = strconv.AppendInt(out, int64(d), 10)
	}
	out = append(out, `],"data_offsets":[`...)
	out = strconv.AppendInt(out, e.Begin, 10)
	out = append(out, ',')
	out = strconv.AppendInt(out, e.End, 10)
	return append(out, "]}"...)
}

// appendString appends valid UTF-8 as a JSON string, escaping what must be escaped.
func appendString(out []byte, s string) []byte {
	out = append(out, '"')
	for _, c := range []byte(s) {
		switch {
		case c == '"' || c == '\\':
			out = append(out, '\\', c)
		case c < ' ':
			out = fmt.Appendf(out, `\u%04x`, c)
		default:
			out = append(out, c)
		}
	}
	return append(out, '"')
}
