//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/coppice-lm/coppice/safetensors"
)

func TestParameters(t *testing.T) {
	// The published counts of Llama-3.2-3B and of the model pruned by 60 %.
	for _, tt := range []struct {
		width int
		want  int64
	}{{width, 3212749824}, {keptWidth, 1944443904}} {
		if got := parameters(fullLayers, tt.width); got != tt.want {
			t.Errorf("width %d: %d parameters, want %d", tt.width, got, tt.want)
		}
	}
	if got, want := scoredBytes(fullLayers), int64(fullLayers*2*2*width*hidden); got != want {
		t.Errorf("scored bytes %d, want %d", got, want)
	}
}

// A shard is a valid file, the same however many workers write it, and its values are
// finite and bell-shaped.
func TestWriteShard(t *testing.T) {
	list := []matrix{{"model.layers.0.mlp.gate_proj.weight", 300, 64}, {"model.norm.weight", 1, 64}}
	path := filepath.Join(t.TempDir(), "shard")
	var files [2][]byte
	for i := range files {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1 + 2*i))
		if err := writeShard(path, list); err != nil {
			t.Fatal(err)
		}
		var err error
		if files[i], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(files[0], files[1]) {
		t.Error("one worker and three gave different files")
	}
	header, err := safetensors.ReadHeader(bytes.NewReader(files[0]), int64(len(files[0])))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct{ mean, deviation float64 }{{0, 0.02}, {1, 0.02}} {
		e := header.Tensors[i]
		mean, deviation := moments(files[0][e.Begin:e.End])
		if math.Abs(mean-want.mean) > 0.01 || math.Abs(deviation-want.deviation) > 0.005 {
			t.Errorf("%s: mean %.4f and deviation %.4f, want %v", e.Name, mean, deviation, want)
		}
	}
}

// moments of bfloat16 values; a value that is not finite makes them not finite.
func moments(data []byte) (mean, deviation float64) {
	n := float64(len(data) / 2)
	var sum, squares float64
	for i := 0; i < len(data); i += 2 {
		x := float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(data[i:])) << 16))
		sum += x
		squares += x * x
	}
	mean = sum / n
	return mean, math.Sqrt(squares/n - mean*mean)
}

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		in   []float64
		want float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(tt.in); got != tt.want {
			t.Errorf("median of %v is %v, want %v", tt.in, got, tt.want)
		}
	}
}

// Goals are judged in a run of full size alone.
func TestReport(t *testing.T) {
	for _, tt := range []struct {
		full bool
		want []string
	}{{true, []string{"fast  1.00  2.00  s", "yes", "NO"}}, {false, []string{"no goal is judged"}}} {
		var r report
		r.add(row{What: "fast", Unit: "s", Ours: 1, Peer: 2, Ratio: 2, Goal: "ratio >= 2", holds: true})
		r.add(row{What: "slow", Unit: "s", Ours: 3, Goal: "<= 1"})
		r.judge(tt.full)
		var out strings.Builder
		if err := r.print(&out); err != nil {
			t.Fatal(err)
		}
		for _, want := range tt.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("full size %t: no %q in\n%s", tt.full, want, out.String())
			}
		}
		if !tt.full && strings.Contains(out.String(), "yes") {
			t.Errorf("a small run is judged:\n%s", out.String())
		}
	}
}

// Every reader reads all of its part: a byte that is wrong anywhere changes its answer.
func TestReaders(t *testing.T) {
	part := bytes.Repeat([]byte{filler}, 8192)
	for name, read := range readers {
		if !read(part) {
			t.Errorf("%s does not accept the filler", name)
		}
	}
	before := sum(part)
	for _, at := range []int{0, 4095, 8191} {
		part[at] = ^byte(filler)
		if sum(part) == before {
			t.Errorf("sum does not see byte %d", at)
		}
		for _, name := range []string{"search", "compare"} {
			if readers[name](part) {
				t.Errorf("%s does not see byte %d", name, at)
			}
		}
		part[at] = filler
	}
}
