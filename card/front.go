package card

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/coppice-lm/coppice/eval"
)

// frontMatter is the head of the card. There is no base_model_relation: the hub knows
// finetune, adapter, merge and quantized, and pruning is none of them.
type frontMatter struct {
	BaseModel   string       `yaml:"base_model"`
	Library     string       `yaml:"library_name"`
	Pipeline    string       `yaml:"pipeline_tag"`
	License     string       `yaml:"license,omitempty"`
	LicenseName string       `yaml:"license_name,omitempty"`
	LicenseLink string       `yaml:"license_link,omitempty"`
	Language    []string     `yaml:"language,omitempty"`
	Tags        []string     `yaml:"tags"`
	Datasets    []string     `yaml:"datasets,omitempty"`
	Metrics     []string     `yaml:"metrics,omitempty"`
	Emissions   *emissions   `yaml:"co2_eq_emissions,omitempty"`
	Index       []indexModel `yaml:"model-index"`
}

// emissions are grams of CO2 equivalent.
type emissions struct {
	Grams    number `yaml:"emissions"`
	Source   string `yaml:"source"`
	Hardware string `yaml:"hardware_used,omitempty"`
}

// The model-index (github.com/huggingface/hub-docs, modelcard.md).
type (
	indexModel struct {
		Name    string        `yaml:"name"`
		Results []indexResult `yaml:"results"`
	}
	indexResult struct {
		Task    indexTask     `yaml:"task"`
		Dataset indexDataset  `yaml:"dataset"`
		Metrics []indexMetric `yaml:"metrics"`
		Source  indexSource   `yaml:"source"`
	}
	indexTask struct {
		Type string `yaml:"type"`
		Name string `yaml:"name"`
	}
	indexDataset struct {
		Name     string    `yaml:"name"`
		Type     string    `yaml:"type"`
		Config   string    `yaml:"config,omitempty"`
		Split    string    `yaml:"split,omitempty"`
		Revision string    `yaml:"revision"`
		Args     indexArgs `yaml:"args"`
	}
	indexArgs struct {
		Shots   int `yaml:"num_few_shot"`
		Records int `yaml:"records"`
		Of      int `yaml:"of"`
	}
	indexMetric struct {
		Type  string `yaml:"type"`
		Value any    `yaml:"value"`
		Name  string `yaml:"name"`
	}
	indexSource struct {
		Name string `yaml:"name"`
		URL  string `yaml:"url"`
	}
)

const (
	homepage    = "https://github.com/coppice-lm/coppice"
	textTask    = "text-generation" // the hub's pipeline tag, and task of the model-index
	libraryName = "transformers"
)

// front writes the front matter with its lines of dashes.
func (card *Card) front() ([]byte, error) {
	f := frontMatter{
		BaseModel: card.Base.Name, Library: libraryName, Pipeline: textTask,
		License: card.Licence.ID, LicenseName: card.Licence.Name, LicenseLink: card.Licence.Link,
		Language: card.Languages, Datasets: card.Datasets,
		Tags:      []string{"pruned", "structured-pruning", "mlp-width-pruning", "glu", "coppice"},
		Emissions: card.emissions(),
	}
	if card.Plan.Method != "" {
		f.Tags = append(f.Tags, string(card.Plan.Method))
	}
	if len(card.Plan.Kept()) < len(card.Plan.Layers) {
		f.Tags = append(f.Tags, "depth-pruning")
	}
	model := indexModel{Name: card.Name}
	for i := range card.pruned.Tasks {
		t := &card.pruned.Tasks[i]
		r := indexTaskResult(t)
		for _, m := range t.Metrics {
			name, known := hubMetric(m.Name)
			if known && !slices.Contains(f.Metrics, name) {
				f.Metrics = append(f.Metrics, name)
			}
			if v := indexValue(&m); v != nil {
				r.Metrics = append(r.Metrics, indexMetric{name, v, m.Name})
			}
		}
		model.Results = append(model.Results, r)
	}
	f.Index = []indexModel{model}
	var b bytes.Buffer
	b.WriteString("---\n")
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(f); err != nil {
		return nil, err
	}
	b.WriteString("---\n")
	return b.Bytes(), nil
}

// indexTaskResult is a task's entry without its metrics. The revision of a data set is
// that of the records that were asked, by their fingerprint: they came from a file, and
// which commit of the hub's repository holds the same is not known.
func indexTaskResult(t *eval.TaskResult) indexResult {
	d, ok := datasets[t.Name]
	if !ok {
		d = dataset{title: t.Name, id: datasetID(t.Name)}
	}
	return indexResult{
		Task: indexTask{textTask, "Text Generation"},
		Dataset: indexDataset{
			Name: d.title, Type: d.id, Config: d.config, Split: d.split,
			Revision: "records-" + t.Fingerprint, Args: indexArgs{0, t.Evaluated, t.Records},
		},
		Source: indexSource{"Coppice", homepage},
	}
}

// datasetID makes a name that the hub accepts of a task of the user's own.
func datasetID(task string) string {
	b := []byte(task)
	for i, c := range b {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_') {
			b[i] = '-'
		}
	}
	return cmp.Or(string(bytes.Trim(b, "-")), "task")
}

// indexValue is a metric's value: a text where it is too large for a number, nil where it
// is none.
func indexValue(m *eval.Metric) any {
	switch {
	case m.Overflow() && finite(m.Log):
		return fmt.Sprintf("e^%.2f", m.Log)
	case !finite(m.Value):
		return nil
	}
	return number(m.Value)
}

// number is a float that all readers of YAML take for one: Python's wants a point in it.
type number float64

// MarshalYAML implements yaml.Marshaler.
func (n number) MarshalYAML() (any, error) {
	x := float64(n)
	s := strconv.FormatFloat(x, 'f', -1, 64)
	if math.Abs(x) >= 1e15 {
		s = strconv.FormatFloat(x, 'e', 15, 64)
	}
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!float", Value: s}, nil
}

// emissions are there only where energy was measured, or estimated and so labelled, and a
// grid intensity was stated.
func (card *Card) emissions() *emissions {
	if card.record == nil || card.record.Run == nil || card.record.Run.Energy == nil {
		return nil
	}
	e, run := card.record.Run.Energy, card.record.Run
	if e.GramsCO2e == nil {
		return nil
	}
	source := fmt.Sprintf("Coppice, energy read by %s during the evaluation", e.Meter)
	if e.Estimate {
		source = "Coppice, an ESTIMATE from the processor's rated power during the evaluation, not a measurement"
	}
	if e.Grid != nil {
		source += fmt.Sprintf(", at %v g CO2e/kWh as stated by the user", *e.Grid)
	}
	return &emissions{number(*e.GramsCO2e), source, run.Host.CPU}
}
