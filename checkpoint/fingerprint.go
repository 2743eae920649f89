package checkpoint

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
)

// Samples of a tensor that go into the fingerprint: this many stretches of rows, of
// about this many bytes, spread evenly from its beginning to its end.
const (
	samplesPerTensor = 4
	sampleBytes      = 1024
)

// Fingerprint identifies the model: SHA-256 over every tensor's name, type, shape and a
// sample of its values, in the order of the names. It does not depend on how the model
// is sharded, and takes milliseconds for any size. Two models that differ in a value
// that no sample meets have the same fingerprint; models that differ by training, by
// pruning or by conversion differ in all samples.
func (c *Checkpoint) Fingerprint() (string, error) {
	h := sha256.New()
	h.Write([]byte("coppice model fingerprint 1\n" + c.Spec.Family.ModelType + "\n"))
	for _, name := range slices.Sorted(maps.Keys(c.sources)) {
		info := c.sources[name].info
		fmt.Fprintf(h, "%q %v %v\n", name, info.DType, []int(info.Shape))
		if info.Rows() == 0 || info.RowBytes() == 0 {
			continue
		}
		n := min(info.Rows(), int(max(1, sampleBytes/info.RowBytes())))
		buf := make([]byte, int64(n)*info.RowBytes())
		last := info.Rows() - n
		for i := range samplesPerTensor {
			row := int(int64(last) * int64(i) / (samplesPerTensor - 1))
			if err := c.ReadRows(name, buf, row, n); err != nil {
				return "", err
			}
			binary.Write(h, binary.LittleEndian, int64(row))
			h.Write(buf)
		}
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}
