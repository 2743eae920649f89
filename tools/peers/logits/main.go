// Logits gives the engine's answers to the peer checks.
//
//	logits [-sum] MODEL < sequences.json > answers
//
// MODEL is a directory or a GGUF file, run in float32 on one thread unless flags say otherwise; sequences.json is a
// list of lists of token ids. For each sequence of n tokens and a vocabulary of v, the
// output holds, little-endian:
//
//	n*v float32  log-probabilities of every token after each position, as scoring gives them
//	n   int32    the token that scoring calls greedy
//	n*v float32  logits after each position, as decoding token by token with a cache gives them
//
// With -sum it holds one JSON list in place of these: the sum over each sequence of the
// log-probabilities of its tokens but the first.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu"
)

func main() {
	sum := flag.Bool("sum", false, "print the log-likelihood of each sequence")
	threads := flag.Int("threads", 1, "goroutines")
	dtype := flag.String("dtype", "f32", "precision of the engine")
	flag.Parse()
	if flag.NArg() != 1 {
		log.Fatal("usage: logits [-sum] MODEL < sequences.json > answers")
	}
	precision, err := engine.ParsePrecision(*dtype)
	if err != nil {
		log.Fatal(err)
	}
	opt := cpu.Options{Threads: *threads, Precision: precision}
	if err := run(flag.Arg(0), *sum, opt, os.Stdin, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(path string, sum bool, opt cpu.Options, in io.Reader, out io.Writer) error {
	var sequences [][]int32
	if err := json.NewDecoder(in).Decode(&sequences); err != nil {
		return fmt.Errorf("the sequences: %w", err)
	}
	longest := 0
	for _, s := range sequences {
		longest = max(longest, len(s))
	}
	opt.MaxLength = longest // beyond the model's own length if need be
	e, err := open(path, opt)
	if err != nil {
		return err
	}
	if sum {
		return likelihoods(e, sequences, out)
	}
	w := bufio.NewWriter(out)
	for _, s := range sequences {
		if err := score(e, s, w); err != nil {
			return err
		}
		if err := decode(e, s, w); err != nil {
			return err
		}
	}
	return w.Flush()
}

// open loads a model.
func open(path string, opt cpu.Options) (engine.Engine, error) {
	c, err := checkpoint.Open(path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	model, err := c.Spec.Transformer(c.Config)
	if err != nil {
		return nil, err
	}
	return cpu.New(context.Background(), model, c, opt)
}

func score(e engine.Engine, tokens []int32, w io.Writer) error {
	vocab := e.Model().Vocab
	node := engine.Node{Parent: -1, Tokens: tokens}
	for i := range tokens {
		for t := range vocab {
			node.Targets = append(node.Targets, engine.Target{Index: i, Token: int32(t)})
		}
	}
	answers, err := e.Score(context.Background(), engine.Batch{Nodes: []engine.Node{node}}, nil)
	if err != nil {
		return err
	}
	values := make([]float32, 0, len(node.Targets))
	greedy := make([]int32, len(tokens))
	for i := range greedy {
		greedy[i] = -1
	}
	for i, a := range answers[0] {
		values = append(values, a.LogProb)
		if a.Greedy {
			greedy[i/vocab] = int32(i % vocab)
		}
	}
	if err := binary.Write(w, binary.LittleEndian, values); err != nil {
		return err
	}
	return binary.Write(w, binary.LittleEndian, greedy)
}

// likelihoods prints the log-likelihood of each sequence.
func likelihoods(e engine.Engine, sequences [][]int32, out io.Writer) error {
	sums := make([]float64, len(sequences))
	for i, s := range sequences {
		node := engine.Node{Parent: -1, Tokens: s}
		for j := 1; j < len(s); j++ {
			node.Targets = append(node.Targets, engine.Target{Index: j - 1, Token: s[j]})
		}
		answers, err := e.Score(context.Background(), engine.Batch{Nodes: []engine.Node{node}}, nil)
		if err != nil {
			return err
		}
		for _, a := range answers[0] {
			sums[i] += float64(a.LogProb)
		}
	}
	return json.NewEncoder(out).Encode(sums)
}

func decode(e engine.Engine, tokens []int32, w io.Writer) error {
	cache := e.NewCache()
	logits := make([]float32, e.Model().Vocab)
	for _, t := range tokens {
		if err := cache.Append(context.Background(), []int32{t}, logits); err != nil {
			return err
		}
		if err := binary.Write(w, binary.LittleEndian, logits); err != nil {
			return err
		}
	}
	return nil
}
