//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/engine"
	"github.com/coppice-lm/coppice/engine/cpu"
	"github.com/coppice-lm/coppice/engine/cpu/kernel"
)

// workerOptions say what our side does as a program that stays loaded.
type workerOptions struct {
	job, model, dtype string
	threads, tokens   int
}

func (o *workerOptions) define(flags *flag.FlagSet) {
	flags.StringVar(&o.job, "job", "", "internal: the worker's job")
	flags.StringVar(&o.model, "job-model", "", "internal: its model")
	flags.StringVar(&o.dtype, "job-dtype", "f32", "internal: its precision")
	flags.IntVar(&o.threads, "job-threads", 1, "internal: its threads")
	flags.IntVar(&o.tokens, "job-tokens", 512, "internal: its tokens")
}

// job is work that is timed, and the value that tells whether it was the same work.
type job struct {
	run   func() error
	value func() float64
}

// work serves turns as tools/peers/worker.py does.
func work(o workerOptions) error {
	jobs := map[string]func(workerOptions) (job, error){"score": scoreJob, "decode": decodeJob, "attention": attentionJob, "memory": memoryJob}
	make, ok := jobs[o.job]
	if !ok {
		return fmt.Errorf("no job is called %q", o.job)
	}
	j, err := make(o)
	if err != nil {
		return err
	}
	if err := j.run(); err != nil { // nothing is measured cold
		return err
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(answer{Ready: true}); err != nil {
		return err
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		start := time.Now()
		if err := j.run(); err != nil {
			return err
		}
		seconds := time.Since(start).Seconds()
		if err := out.Encode(answer{Seconds: seconds, Value: j.value()}); err != nil {
			return err
		}
	}
	return nil
}

// workTokens are the ids that every program is given.
func workTokens(n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(i * 37 % 10007)
	}
	return ids
}

func openEngine(o workerOptions) (engine.Engine, error) {
	precision, err := engine.ParsePrecision(o.dtype)
	if err != nil {
		return nil, err
	}
	c, err := checkpoint.Open(o.model)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	m, err := c.Spec.Transformer(c.Config)
	if err != nil {
		return nil, err
	}
	return cpu.New(context.Background(), m, c, cpu.Options{Precision: precision, Threads: o.threads})
}

// scoreJob is the log-probability of each next token.
func scoreJob(o workerOptions) (job, error) {
	e, err := openEngine(o)
	if err != nil {
		return job{}, err
	}
	node := engine.Node{Parent: -1, Tokens: workTokens(o.tokens)}
	for i, token := range node.Tokens[1:] {
		node.Targets = append(node.Targets, engine.Target{Index: i, Token: token})
	}
	var scores [][]engine.Score
	return job{
		run: func() (err error) {
			scores, err = e.Score(context.Background(), engine.Batch{Nodes: []engine.Node{node}}, nil)
			return err
		},
		value: func() float64 {
			sum := 0.0
			for _, s := range scores[0] {
				sum += float64(s.LogProb)
			}
			return sum
		},
	}, nil
}

// decodeJob is tokens one by one; its value is the log-probability of token 0 after the
// last.
func decodeJob(o workerOptions) (job, error) {
	e, err := openEngine(o)
	if err != nil {
		return job{}, err
	}
	ids, logits, cache := workTokens(o.tokens), make([]float32, e.Model().Vocab), e.NewCache()
	return job{
		run: func() error {
			cache.Truncate(0)
			for i := range ids {
				if err := cache.Append(context.Background(), ids[i:i+1], logits); err != nil {
					return err
				}
			}
			return nil
		},
		value: func() float64 { return float64(logits[0]) - kernel.LogSumExp(logits) },
	}, nil
}

// The attention that is measured is SmolLM2-135M's.
const (
	attentionHeads   = 9
	attentionKVHeads = 3
	attentionDim     = 64
)

// attentionJob is causal attention, cut into blocks of queries as engine/cpu does it; its
// value is the mean magnitude.
func attentionJob(o workerOptions) (job, error) {
	const queries = 64 // of a unit of work
	n, group := o.tokens, attentionHeads/attentionKVHeads
	ldq, ldkv := attentionHeads*attentionDim, attentionKVHeads*attentionDim
	q, k, v := numbers(n*ldq, 0), numbers(n*ldkv, 1_000_000_007), numbers(n*ldkv, 2_000_000_011)
	out := make([]float32, n*ldq)
	attention := kernel.Attention{HeadDim: attentionDim, Heads: group, Scale: float32(1 / math.Sqrt(attentionDim))}
	units := (n + queries - 1) / queries * attentionKVHeads
	unit := func(u int) {
		block, head := units/attentionKVHeads-1-u/attentionKVHeads, u%attentionKVHeads
		first, column := block*queries, head*group*attentionDim
		run := kernel.KV{N: n, K: k[head*attentionDim:], V: v[head*attentionDim:], LdK: ldkv, LdV: ldkv}
		attention.Run(out[first*ldq+column:], ldq, q[first*ldq+column:], ldq, min(queries, n-first), first, []kernel.KV{run})
	}
	return job{
		run: func() error {
			var next atomic.Int64
			var group sync.WaitGroup
			for range o.threads {
				group.Go(func() {
					for u := int(next.Add(1)) - 1; u < units; u = int(next.Add(1)) - 1 {
						unit(u)
					}
				})
			}
			group.Wait()
			return nil
		},
		value: func() float64 {
			sum := 0.0
			for _, x := range out {
				sum += math.Abs(float64(x))
			}
			return sum / float64(len(out))
		},
	}, nil
}

// numbers are evenly spread over -1 to 1, the same as torch_attention.py's.
func numbers(n int, first uint32) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32((uint32(i)+first)*2654435761>>8)/(1<<23) - 1
	}
	return x
}
