// Package reporttest makes ledgers of studies that nobody ran, for the tests of what reads
// ledgers. Their numbers follow simple rules and look like those of a model of 135 million
// parameters; they say nothing about any model.
package reporttest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/study"
)

// Grid is what a made-up study goes over.
type Grid struct {
	Models  []string
	Methods []string // beside dense; a method with "+global" shares widths out
	Ratios  []float64
	Seeds   int
	DTypes  []string
	Layers  int
	Meter   string // "rapl", "tdp" or "none"
	Scores  int    // records of each task whose scores stand in the ledger; no report shows them
}

// Small is the grid of a usual study: one model, ten variants.
func Small() Grid {
	return Grid{
		Models: []string{"smol"}, Methods: []string{"maxabs", "activation", "best", "best+global"},
		Ratios: []float64{0.2, 0.4, 0.6}, Seeds: 1, DTypes: []string{"bf16"}, Layers: 30, Meter: "rapl",
	}
}

// Large is a grid of at least 500 cells.
func Large() Grid {
	return Grid{
		Models:  []string{"small", "large"},
		Methods: []string{"maxabs", "variance", "l2", "random", "activation", "fluctuation", "leverage", "obs", "best", "best+global"},
		Ratios:  []float64{0.1, 0.2, 0.3, 0.4, 0.6}, Seeds: 5, DTypes: []string{"bf16"}, Layers: 30, Meter: "tdp",
	}
}

// task is a benchmark that the made-up models are asked.
type task struct {
	name, group      string
	kind             eval.Kind
	records          int
	chance, majority float64
	dense            float64 // accuracy, or a perplexity
	perplexity       float64 // of a cloze
}

var tasks = []task{
	{name: "arc_easy", kind: eval.MultipleChoice, records: 2376, chance: 0.25, majority: 0.266, dense: 0.518},
	{name: "boolq", kind: eval.MultipleChoice, records: 1000, chance: 0.5, majority: 0.625, dense: 0.414},
	{name: "lambada_openai", kind: eval.Cloze, records: 1000, dense: 0.296, perplexity: 50.6},
	{name: "musr_murder_mysteries", group: "musr", kind: eval.MultipleChoice, records: 250, chance: 0.5, majority: 0.52, dense: 0.55},
	{name: "musr_object_placements", group: "musr", kind: eval.MultipleChoice, records: 256, chance: 0.22, majority: 0.25, dense: 0.33},
	{name: "wikitext", kind: eval.Rolling, records: 62, dense: 30.7},
}

// keeps says how well a method keeps what a model can do: the larger, the worse.
func keeps(method string) float64 {
	switch method {
	case "maxabs", "variance", "l2", "random":
		return 9 + float64(len(method))/4
	case "best", "obs":
		return 1.9
	case "best+global":
		return 1.7
	}
	return 2.6 + float64(len(method))/40
}

// Ledger makes the study of a grid. The same grid gives the same ledger.
func (g Grid) Ledger() *study.Ledger {
	l := &study.Ledger{Study: "made-up"}
	for mi, model := range g.Models {
		for _, dtype := range g.DTypes {
			dense := g.record(model, mi, dtype, study.Dense, 0, 0)
			l.Records = append(l.Records, dense)
			for _, ratio := range g.Ratios {
				for _, method := range g.Methods {
					for seed := range g.Seeds {
						r := g.record(model, mi, dtype, method, ratio, uint64(seed))
						l.Records = append(l.Records, r)
						l.Comparisons = append(l.Comparisons, compare(&r, &dense))
						if method != "maxabs" && method != "best+global" {
							for i := range l.Records {
								o := &l.Records[i]
								if o.Cell.Model == model && o.Cell.DType == dtype && o.Cell.Method == "maxabs" && o.Cell.Ratio == ratio && o.Cell.Seed == uint64(seed) {
									l.Comparisons = append(l.Comparisons, compare(&r, o))
								}
							}
						}
					}
				}
			}
		}
	}
	return l
}

// record makes one cell's record.
func (g Grid) record(model string, modelIndex int, dtype, method string, ratio float64, seed uint64) study.Record {
	name, global := strings.CutSuffix(method, "+global")
	c := study.Cell{
		ID: fmt.Sprintf("%016x", hash(model, dtype, method, ratio, seed)), Model: model, BaseModel: "example/" + model,
		Method: name, Ratio: ratio, Seed: seed, DType: dtype, ModelFingerprint: "sha256:999a86e5cf50", Data: map[string]string{},
	}
	if method != study.Dense {
		c.Allocation = "uniform"
		if global {
			c.Allocation = "global"
		}
	}
	if keeps(method) < 5 && method != study.Dense {
		c.Calibration = "sha256:ec156683aee6 65536 x 512"
	}
	rng := rand.New(rand.NewPCG(hash(c.ID), 1))
	r := study.Record{Version: study.LedgerVersion, Cell: c, Status: study.Done, Shape: g.shape(modelIndex, method, ratio, rng)}
	left := 1.0
	if method != study.Dense {
		left = math.Exp(-keeps(method)*ratio + 0.02*rng.NormFloat64())
	}
	var group []eval.TaskResult
	for _, t := range tasks {
		res := t.result(left, rng)
		r.Cell.Data[t.name] = res.Fingerprint
		r.Tasks = append(r.Tasks, g.withScores(res, rng))
		if t.group != "" {
			group = append(group, res)
		}
	}
	r.Groups = []eval.GroupResult{pool("musr", group)}
	if keeps(method) < 5 && method != study.Dense {
		r.Curves = g.curves(r.Shape.DenseWidth)
	}
	r.Conditions = &study.Conditions{BOS: "tokenizer", MaxLength: 2048}
	r.Commands = g.commands(&c, method)
	r.Run = g.run(r.Shape, dtype, rng)
	return r
}

// withScores adds scores of single records.
func (g Grid) withScores(res eval.TaskResult, rng *rand.Rand) study.Task {
	t := study.Task{TaskResult: res, Docs: make([]int, g.Scores), Weights: make([][]float64, len(res.Metrics))}
	for i := range t.Docs {
		t.Docs[i] = i
	}
	for _, m := range res.Metrics {
		scores := make([]float64, g.Scores)
		for i := range scores {
			if scores[i] = -40 * rng.Float64(); eval.HigherIsBetter(m.Name) {
				scores[i] = float64(rng.IntN(2))
			}
		}
		t.Scores = append(t.Scores, scores)
	}
	return t
}

func (g Grid) commands(c *study.Cell, method string) []string {
	if method == study.Dense {
		return []string{"coppice eval " + c.Model + " --tasks arc_easy,boolq,lambada_openai,musr,wikitext --limit 1000 --data-dir data --dtype " + c.DType}
	}
	prune := fmt.Sprintf("coppice prune %s -o cell --ratio %v --method %s --seed %d", c.Model, c.Ratio, c.Method, c.Seed)
	if c.Calibration != "" {
		prune += " --calib calibration.jsonl"
	}
	if c.Allocation == "global" {
		prune += " --allocation global"
	}
	return []string{prune, "coppice eval cell --tasks arc_easy,boolq,lambada_openai,musr,wikitext --limit 1000 --data-dir data --dtype " + c.DType}
}

// shape makes widths and the neurons that stay: the better methods keep much the same ones.
func (g Grid) shape(modelIndex int, method string, ratio float64, rng *rand.Rand) *study.Shape {
	const width, hidden = 1536, 576
	s := &study.Shape{Family: "llama", Layers: g.Layers, Hidden: hidden, DenseWidth: width, StoredDType: "bf16"}
	s.Parameters = 54_900_000 * int64(1+2*modelIndex)
	for layer := range g.Layers {
		n := int(math.Round(width * (1 - ratio)))
		if strings.HasSuffix(method, "+global") {
			at := float64(layer) / float64(g.Layers-1)
			n = int(float64(n) * (1 + ratio*(0.55*math.Cos(5*at)-0.2*at+0.08)))
			n = min(width, n/64*64)
		}
		s.Widths = append(s.Widths, n)
		s.MLPParameters += int64(3*hidden*n) * int64(1+2*modelIndex)
		if method == study.Dense {
			continue
		}
		s.Kept = append(s.Kept, keep(width, n, keeps(method) < 5, uint64(layer), rng))
	}
	s.Parameters += s.MLPParameters
	s.Bytes = 2*s.Parameters + 14_000
	return s
}

// keep chooses n neurons, with an order that good methods have in common.
func keep(width, n int, good bool, layer uint64, rng *rand.Rand) []byte {
	common := rand.New(rand.NewPCG(layer, 7))
	score := make([]float64, width)
	for i := range score {
		score[i] = common.Float64()
		if x := rng.Float64(); good {
			score[i] += 0.2 * x
		} else {
			score[i] = 0.15*score[i] + x
		}
	}
	sorted := slices.Clone(score)
	slices.Sort(sorted)
	b := make([]byte, (width+7)/8)
	for i, s := range score {
		if n > 0 && s >= sorted[width-n] {
			b[i/8] |= 1 << (i % 8)
		}
	}
	return b
}

func (g Grid) curves(width int) *study.Curves {
	c := &study.Curves{}
	for layer := range g.Layers {
		var l study.LayerCurve
		for i := 1; i <= 12; i++ {
			kept := width * i / 12
			share := 1 - float64(kept)/float64(width)
			l.Kept = append(l.Kept, kept)
			l.Error = append(l.Error, (0.004+0.05*math.Exp(-0.25*float64(layer))+0.0004*float64(layer))*share*share*(0.3+share))
		}
		c.Layers = append(c.Layers, l)
	}
	return c
}

func (g Grid) run(s *study.Shape, dtype string, rng *rand.Rand) *study.Run {
	r := &study.Run{
		Started: "2026-11-20T10:00:00Z", Seconds: 300 + 60*rng.Float64(), Coppice: "0.1.0",
		Host:        study.Host{OS: "linux", Arch: "amd64", CPU: "AMD EPYC 9B14", Cores: 2, Threads: 2, Memory: 25_274_036_224, Level: "avx512bf16"},
		LoadSeconds: 0.21 + 0.02*rng.Float64(), PeakMemory: s.Bytes*5/4 + 20e6,
	}
	for _, m := range []study.Speed{
		{Kind: "decode", Context: 128, Batch: 1}, {Kind: "decode", Context: 1024, Batch: 1}, {Kind: "decode", Context: 128, Batch: 8}, {Kind: "prompt", Context: 512, Batch: 1},
	} {
		m.DType = dtype
		base := 5.6e10 / float64(s.Bytes)
		if m.Batch > 1 {
			base *= 4
		}
		if m.Kind == "prompt" {
			base *= 11
		}
		for range 5 {
			m.Runs = append(m.Runs, base*(1+0.03*rng.NormFloat64()))
		}
		m.TokensPS = m.Runs[2]
		r.Speed = append(r.Speed, m)
	}
	r.Energy = g.energy(s, rng)
	return r
}

func (g Grid) energy(s *study.Shape, rng *rand.Rand) *study.Energy {
	if g.Meter == "none" {
		return &study.Energy{Meter: "none", Absent: "/sys/class/powercap has no zone that can be read"}
	}
	const tokens = 412_000
	joules := (0.004 + 3.1e-11*float64(s.Bytes)) * tokens * (1 + 0.02*rng.NormFloat64())
	idle, net := 11.5, 0.72*joules
	e := &study.Energy{Meter: g.Meter, Estimate: g.Meter == "tdp", Joules: &joules, Tokens: tokens}
	if g.Meter == "rapl" {
		e.IdleWatts, e.NetJoules = &idle, &net
		e.Domains = []study.Domain{{Name: "package-0", Joules: 0.9 * joules, Counted: true}, {Name: "dram", Joules: 0.1 * joules, Counted: true}, {Name: "psys", Joules: 1.4 * joules}}
	}
	return e
}

// hash is FNV-1a over the words of its arguments.
func hash(words ...any) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range []byte(fmt.Sprint(words...)) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return h
}
