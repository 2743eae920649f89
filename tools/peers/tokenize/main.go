// Tokenize encodes files for the peer check: each whole, in one goroutine.
//
//	tokenize MODEL OUT FILE...
//	tokenize -lines MODEL FILE
//
// MODEL is a GGUF file or a directory with tokenizer.json. The ids of the n-th file are
// written to OUT/n.ids as little-endian int32, without what the post-processor adds. The
// last line of output is the bytes encoded and the seconds that encoding took. With
// -lines only the time is taken, for each line by itself and the best of five rounds.
package main

import (
	"encoding/binary"
	"fmt"
	"log"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/coppice-lm/coppice/gguf"
	"github.com/coppice-lm/coppice/tokenizer"
)

func main() {
	if len(os.Args) == 4 && os.Args[1] == "-lines" {
		if err := timeLines(os.Args[2], os.Args[3]); err != nil {
			log.Fatal(err)
		}
		return
	}
	if len(os.Args) < 4 {
		log.Fatal("usage: tokenize MODEL OUT FILE...")
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		log.Fatal(err)
	}
}

func run(model, out string, files []string) error {
	tok, err := load(model)
	if err != nil {
		return err
	}
	bytes, seconds := 0, 0.0
	for n, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		text := string(b)
		start := time.Now()
		ids := tok.Encode(text, false)
		seconds += time.Since(start).Seconds()
		bytes += len(text)
		data, err := binary.Append(nil, binary.LittleEndian, ids)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(out, fmt.Sprintf("%d.ids", n)), data, 0o644); err != nil {
			return err
		}
	}
	fmt.Println(bytes, seconds)
	return nil
}

func timeLines(model, file string) error {
	tok, err := load(model)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	lines := strings.Split(string(b), "\n")
	best := math.Inf(1)
	for range 5 {
		start := time.Now()
		for _, line := range lines {
			tok.Encode(line, false)
		}
		best = min(best, time.Since(start).Seconds())
	}
	fmt.Println(len(b), best)
	return nil
}

// load reads the tokenizer of a directory or of a GGUF file.
func load(model string) (*tokenizer.Tokenizer, error) {
	f, err := os.Open(model)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return tokenizer.LoadFS(os.DirFS(model))
	}
	file, err := gguf.Read(f, info.Size())
	if err != nil {
		return nil, err
	}
	return tokenizer.FromGGUF(file)
}
