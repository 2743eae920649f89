package parquetrows

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress"
)

type record struct {
	Text   string   `parquet:"text"`
	Labels []string `parquet:"labels,list"`
}

func written(t *testing.T, codec compress.Codec) []byte {
	t.Helper()
	var b bytes.Buffer
	records := make([]record, 60)
	for i := range records {
		records[i] = record{strings.Repeat("word ", i), []string{"A", "B"}}
	}
	if err := parquet.Write(&b, records, parquet.Compression(codec), parquet.MaxRowsPerRowGroup(25)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestEach(t *testing.T) {
	for _, codec := range []compress.Codec{&parquet.Uncompressed, &parquet.Snappy, &parquet.Gzip, &parquet.Zstd, &parquet.Brotli} {
		n := 0
		err := Each("f.parquet", written(t, codec), func(row int, fields map[string]any) error {
			if n++; row != n {
				t.Errorf("%v: row %d comes as %d", codec, n, row)
			}
			if s, _ := fields["text"].(string); s != strings.Repeat("word ", n-1) {
				t.Errorf("%v: row %d: text is %v", codec, n, fields["text"])
			}
			return nil
		})
		if err != nil || n != 60 {
			t.Errorf("%v: %d rows, error %v", codec, n, err)
		}
	}
	stop := errors.New("stop")
	if err := Each("f.parquet", written(t, &parquet.Snappy), func(int, map[string]any) error { return stop }); err != stop {
		t.Errorf("an error of the function comes back as %v", err)
	}
	err := Each("f.parquet", written(t, &parquet.Lz4Raw), func(int, map[string]any) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "zstd") {
		t.Errorf("LZ4: error %v, want one that says what to write instead", err)
	}
}

// A file that is damaged anywhere is an error or is read, never a panic.
func TestDamaged(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, codec := range []compress.Codec{&parquet.Uncompressed, &parquet.Snappy, &parquet.Gzip, &parquet.Zstd} {
		whole := written(t, codec)
		failed := 0
		for range 100 {
			data := bytes.Clone(whole)
			for range 3 {
				data[r.IntN(len(data))] = byte(r.Uint32())
			}
			if err := Each("f.parquet", data, func(int, map[string]any) error { return nil }); err != nil {
				failed++
			}
		}
		if failed == 0 {
			t.Errorf("%v: none of 100 damaged files is an error", codec)
		}
	}
}
