package study

import (
	_ "embed"
	"path/filepath"
	"strings"

	"github.com/coppice-lm/coppice/eval/tasks"
)

// Study is a study file: what is measured of which models. A value that Load returned is
// valid, has its defaults filled in, and names paths as the file does, relative to its Dir.
//
// The tags are all that the reader and the JSON schema know: yaml names a key, doc
// describes it, enum lists its values, min and above bound it (at least, more than), below
// too (less than), and required marks a key that must be there.
type Study struct {
	Version     int         `yaml:"version" required:"true" enum:"1" doc:"version of the study file"`
	Name        string      `yaml:"name" doc:"name of the study, as the report's title has it (default: that of the file)"`
	Models      []Model     `yaml:"models" required:"true" doc:"the models to prune"`
	Methods     []string    `yaml:"methods" required:"true" enum:"maxabs,variance,product,l2,random,activation,fluctuation,leverage,obs,best" doc:"how neurons are chosen, as coppice prune --method names it; best also refits what stays"`
	Ratios      []float64   `yaml:"ratios" above:"0" below:"1" doc:"shares of each layer's MLP neurons to remove; exactly one of ratios, widths and expansions is given"`
	Widths      []int       `yaml:"widths" min:"1" doc:"neurons to keep in each layer"`
	Expansions  []float64   `yaml:"expansions" above:"0" doc:"neurons to keep, as multiples of hidden_size"`
	Align       int         `yaml:"align" min:"1" doc:"widths are rounded to the nearest multiple of this, by every method (default 1)"`
	Allocation  []string    `yaml:"allocation" enum:"uniform,global,measured" doc:"how what stays is shared out among the layers (default: uniform, one width)"`
	Steps       *int        `yaml:"steps" min:"0" below:"10001" doc:"Gauss-Newton steps by which method best refits all layers together, as coppice prune --steps (default: those that best takes by itself)"`
	Seeds       []uint64    `yaml:"seeds" doc:"seeds of method random and of the order of the calibration text (default: 0); methods that use no seed are measured once"`
	DTypes      []string    `yaml:"dtypes" enum:"f32,bf16" doc:"precisions of the computation (default: f32, the mode of record)"`
	Calibration Calibration `yaml:"calibration" doc:"the text that activation-aware methods look at; never one that is evaluated on"`
	Tasks       []string    `yaml:"tasks" doc:"benchmarks, as coppice eval --tasks names them"`
	Data        string      `yaml:"data" doc:"directory with one sub-directory a task, as coppice eval --data-dir"`
	Limit       int         `yaml:"limit" min:"1" doc:"only the first records of each task (default: all)"`
	Limits      []Limit     `yaml:"limits" doc:"other numbers of records for single tasks"`
	Text        *Text       `yaml:"text" doc:"texts whose perplexity is measured"`
	Speed       *SpeedPlan  `yaml:"speed" doc:"throughput measured of each cell; left out: none"`
	Energy      *EnergyPlan `yaml:"energy" doc:"what energy figures are made with; left out: meters alone"`
	Threads     int         `yaml:"threads" min:"1" doc:"threads of every command (default: one a processor)"`
	Scratch     string      `yaml:"scratch" doc:"directory where pruned models live until they are measured (default: in the study's own)"`
	Form        string      `yaml:"form" enum:"transformers,decilm,padded,llama" doc:"how layers of different widths are written, as coppice prune --form"`

	path string // of the file, as Load was given it
}

// Model is a model of a study.
type Model struct {
	Path      string `yaml:"path" required:"true" doc:"directory, .gguf file, or owner/name[@revision] in the local Hugging Face cache"`
	Name      string `yaml:"name" doc:"name of the model in tables (default: the last element of path)"`
	BaseModel string `yaml:"base_model" doc:"name of the model on the Hugging Face hub, owner/name, for model cards"`
}

// Calibration says what statistics of activations are made of.
type Calibration struct {
	Text   []string `yaml:"text" doc:"files or directories: JSON Lines, Parquet, UTF-8 text; or builtin, a small text that the program carries (default: builtin)"`
	Tokens int      `yaml:"tokens" min:"1" doc:"calibration tokens (default 65536)"`
	Ctx    int      `yaml:"ctx" min:"2" doc:"tokens of a row (default 512)"`
}

// Limit is a number of records for one task.
type Limit struct {
	Task    string `yaml:"task" required:"true" doc:"one of tasks; of a group (musr), each of its parts"`
	Records int    `yaml:"records" required:"true" min:"1" doc:"only the first records"`
}

// Text says which texts' perplexity is measured.
type Text struct {
	Files []string `yaml:"files" required:"true" doc:"plain text files in UTF-8"`
	Ctx   int      `yaml:"ctx" min:"2" doc:"tokens of a window (default 512)"`
}

// SpeedPlan says which throughput is measured, with `coppice speed`.
type SpeedPlan struct {
	Prompts []int `yaml:"prompts" min:"1" doc:"lengths of prompts in tokens (default: 128, 512)"`
	Decode  int   `yaml:"decode" min:"1" doc:"tokens to decode after each prompt (default 32)"`
	Batch   []int `yaml:"batch" min:"1" doc:"sequences at once (default: 1)"`
	Repeat  int   `yaml:"repeat" min:"1" doc:"repetitions, of which the median counts (default 3)"`
}

// EnergyPlan says what energy figures are made with beside the machine's meters.
type EnergyPlan struct {
	Grid *float64 `yaml:"grid" min:"0" doc:"carbon intensity of the electricity in grams CO2e a kWh; without it no CO2e is given"`
	TDP  float64  `yaml:"tdp" above:"0" doc:"thermal design power in watts, from which energy is estimated where there is no meter; it is labelled an estimate"`
}

// Defaults of a study file.
const (
	defaultTokens  = 64 << 10
	defaultContext = 512
)

// Dir is the directory of the study file, to which its paths are relative.
func (s *Study) Dir() string { return filepath.Dir(s.path) }

// Path is the study file.
func (s *Study) Path() string { return s.path }

// stem is the path of the study file without its extension, from which the names of the
// ledger and the state directory are made.
func (s *Study) stem() string { return strings.TrimSuffix(s.path, filepath.Ext(s.path)) }

// LedgerPath is where the study's ledger is unless the user says otherwise:
// NAME.ledger.jsonl beside NAME.yaml.
func (s *Study) LedgerPath() string { return s.stem() + ".ledger.jsonl" }

// StateDir is the study's own directory, NAME.study beside NAME.yaml: statistics that cells
// share, evaluations, locks, and pruned models if the file names no other place for them.
func (s *Study) StateDir() string { return s.stem() + ".study" }

// ScratchDir is where pruned models live until they are measured.
func (s *Study) ScratchDir() string {
	if s.Scratch == "" {
		return filepath.Join(s.StateDir(), "scratch")
	}
	return s.abs(s.Scratch)
}

// SetScratch names another scratch directory, relative to the working directory.
func (s *Study) SetScratch(dir string) (err error) {
	s.Scratch, err = filepath.Abs(dir)
	return err
}

// limitOf is how many records are asked of what the file's tasks name, each part of a group
// too; 0 is all.
func (s *Study) limitOf(name string) int {
	for _, l := range s.Limits {
		if l.Task == name {
			return l.Records
		}
	}
	return s.Limit
}

// limits are how many records are asked of each task, by its own name.
func (s *Study) limits() map[string]int {
	byTask := map[string]int{}
	for _, name := range s.Tasks {
		definitions, err := tasks.Find(name)
		if err != nil {
			continue // checkTasks says so
		}
		for _, d := range definitions {
			byTask[d.Name] = s.limitOf(name)
		}
	}
	return byTask
}

// abs is a path of the file as this process can use it.
func (s *Study) abs(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(s.Dir(), path)
}

// fill sets what the file leaves out.
func (s *Study) fill() {
	if s.Name == "" {
		s.Name = filepath.Base(s.stem())
	}
	for i := range s.Models {
		m := &s.Models[i]
		if m.Name == "" {
			m.Name, _, _ = strings.Cut(filepath.Base(filepath.Clean(m.Path)), "@")
			m.Name = strings.TrimSuffix(m.Name, ".gguf")
		}
	}
	setDefault(&s.Align, 1)
	setList(&s.Allocation, uniform)
	setList(&s.Seeds, 0)
	setList(&s.DTypes, "f32")
	setDefault(&s.Calibration.Tokens, defaultTokens)
	setDefault(&s.Calibration.Ctx, defaultContext)
	if s.Text != nil {
		setDefault(&s.Text.Ctx, defaultContext)
	}
	if p := s.Speed; p != nil {
		setList(&p.Prompts, 128, 512)
		setDefault(&p.Decode, 32)
		setList(&p.Batch, 1)
		setDefault(&p.Repeat, 3)
	}
}

func setDefault(v *int, to int) {
	if *v == 0 {
		*v = to
	}
}

func setList[T any](v *[]T, to ...T) {
	if len(*v) == 0 {
		*v = to
	}
}

// Example is a study file with comments, to begin with.
//
//go:embed example.yaml
var Example []byte
