package eval

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// WriteOptions say what Write writes beside the results.
type WriteOptions struct {
	Time    time.Time // names the files and stands in them as the date
	Samples bool      // one samples file a task
	Tokens  bool      // token ids in the samples
	Program string    // name and version of the program, for the record
}

const (
	resultsVersion = 1 // of the coppice section of a results file, and of records files
	recordsFormat  = "coppice eval records"
	timeLayout     = "2006-01-02T15-04-05.000000" // lm-eval's, with no colons
)

// Write writes a result into dir and returns the paths, the results file last:
//
//	samples_<task>_<date>.jsonl  one line a record, where asked for (lm-eval's layout)
//	usage_<date>.json            what the run took, which differs from run to run
//	records_<date>.json          scores by record, from which models are compared
//	results_<date>.json          lm-eval's keys, and Result under "coppice"
//
// All is strict JSON: a perplexity that overflows is "overflow" among lm-eval's keys, with
// its natural logarithm beside it. But for dates and times equal results give equal bytes.
// What cannot be written is a *WriteError.
func Write(dir string, r *Result, opts WriteOptions) ([]string, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, writeError(err)
	}
	clearLeftovers(dir)
	date := opts.Time.Format(timeLayout)
	var paths []string
	write := func(name string, data []byte, err error) error {
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		path := filepath.Join(dir, name)
		paths = append(paths, path)
		return writeError(writeFile(path, data))
	}
	for i := range r.Tasks {
		if t := &r.Tasks[i]; opts.Samples || opts.Tokens {
			data, err := samplesFile(t, opts.Tokens)
			if err := write("samples_"+t.Name+"_"+date+".jsonl", data, err); err != nil {
				return paths, err
			}
		}
	}
	data, err := marshal(r.Usage, "  ")
	if err := write("usage_"+date+".json", data, err); err != nil {
		return paths, err
	}
	data, err = marshal(recordsOf(r), "")
	if err := write("records_"+date+".json", data, err); err != nil {
		return paths, err
	}
	data, err = marshal(resultsObject(r, opts), "  ")
	return paths, write("results_"+date+".json", data, err)
}

// resultsObject is lm-eval's results file, with Result in a section of its own.
func resultsObject(r *Result, opts WriteOptions) object {
	info := r.Model
	results, groups, subtasks := object{}, object{}, object{}
	configs, versions, shots, better, samples, hashes := object{}, object{}, object{}, object{}, object{}, object{}
	entry := func(name string, version any, metrics []Metric, n int) object {
		versions = append(versions, member{name, version})
		shots = append(shots, member{name, 0})
		hib := object{}
		for _, m := range metrics {
			hib = append(hib, member{m.Name, HigherIsBetter(m.Name)})
		}
		better = append(better, member{name, hib})
		return append(object{{"name", name}, {"alias", name}, {"sample_len", n}}, metricMembers(metrics)...)
	}
	for _, g := range r.Groups {
		o := entry(g.Name, "N/A", g.Metrics, g.Records) // lm-eval's groups have no version
		counts := object{}
		for _, m := range g.Metrics {
			counts = append(counts, member{m.Name + ",none", g.Records})
		}
		o = append(o, member{"sample_count", counts})
		results, groups = append(results, member{g.Name, o}), append(groups, member{g.Name, o})
		subtasks = append(subtasks, member{g.Name, g.Tasks})
	}
	for i := range r.Tasks {
		t := &r.Tasks[i]
		results = append(results, member{t.Name, entry(t.Name, jsonFloat(t.Version, nil), t.Metrics, t.Evaluated)})
		configs = append(configs, member{t.Name, taskConfig(t)})
		samples = append(samples, member{t.Name, object{{"original", t.Records}, {"effective", t.Evaluated}}})
		hashes = append(hashes, member{t.Name, t.Fingerprint})
	}
	out := object{{"results", results}}
	if len(groups) > 0 {
		out = append(out, member{"groups", groups})
	}
	return append(out, object{
		{"group_subtasks", subtasks}, {"configs", configs}, {"versions", versions}, {"n-shot", shots},
		{"higher_is_better", better}, {"n-samples", samples},
		{"config", object{
			{"model", "coppice"}, {"model_args", "pretrained=" + info.Name},
			{"model_num_parameters", info.Parameters}, {"model_dtype", info.DType}, {"model_sha", info.Weights},
			{"batch_size", nil}, {"batch_sizes", []int{}}, {"device", "cpu"}, {"use_cache", nil},
			{"limit", limitOf(r)}, {"bootstrap_iters", BootstrapIterations}, {"gen_kwargs", nil}, {"bos", r.BOS},
		}},
		{"git_hash", nil}, {"date", float64(opts.Time.UnixMicro()) / 1e6}, {"program", opts.Program},
		{"tokenizer_bos_token", tokenPair(info.BOS)}, {"tokenizer_eos_token", tokenPair(info.EOS)},
		{"max_length", r.MaxLength}, {"task_hashes", hashes},
		{"model_source", "coppice"}, {"model_name", info.Name}, {"model_name_sanitized", SanitizeName(info.Name)},
		{"system_instruction", nil}, {"chat_template", nil}, {"fewshot_as_multiturn", nil},
		{"total_evaluation_time_seconds", strconv.FormatFloat(r.Usage.Seconds, 'f', -1, 64)},
		{"coppice", object{{"version", resultsVersion}, {"result", r}}},
	}...)
}

// metricMembers are the values of metrics under lm-eval's keys, where ",none" says that no
// filter was applied to the model's answers.
func metricMembers(metrics []Metric) object {
	var o object
	for _, m := range metrics {
		if m.Overflow() {
			o = append(o, member{m.Name + ",none", "overflow"}, member{m.Name + "_log,none", jsonFloat(m.Log, nil)})
		} else {
			o = append(o, member{m.Name + ",none", jsonFloat(m.Value, "N/A")})
		}
		o = append(o, member{m.Name + "_stderr,none", jsonFloat(m.StdErr, "N/A")})
	}
	return o
}

// taskConfig is what lm-eval's configs say of a task, as far as it has a meaning here.
func taskConfig(t *TaskResult) object {
	metrics := []object{}
	for _, m := range t.Metrics {
		metrics = append(metrics, object{{"metric", m.Name}, {"higher_is_better", HigherIsBetter(m.Name)}})
	}
	return object{
		{"task", t.Name}, {"dataset_path", t.Source}, {"output_type", t.Kind},
		{"target_delimiter", " "}, {"num_fewshot", 0}, {"metric_list", metrics},
		{"metadata", object{{"version", jsonFloat(t.Version, nil)}}},
	}
}

func limitOf(r *Result) any {
	if r.Limit == 0 {
		return nil
	}
	return r.Limit
}

func tokenPair(t *Token) any {
	if t == nil {
		return nil
	}
	return []string{t.Text, strconv.Itoa(int(t.ID))}
}

var unsafeInName = regexp.MustCompile(`["<>:/|\\?*\[\]]+`)

// SanitizeName returns the name of a model as lm-eval names a directory after it.
func SanitizeName(name string) string { return unsafeInName.ReplaceAllString(name, "__") }

// records is the file form of the scores by record.
type records struct {
	Format  string                 `json:"format"`
	Version int                    `json:"version"`
	Tasks   map[string]taskRecords `json:"tasks"`
}

// taskRecords holds a column a field; Scores and Weights one a metric.
type taskRecords struct {
	DocIDs       []int       `json:"doc_ids"`
	Fingerprints []string    `json:"fingerprints"`
	Scores       [][]float64 `json:"scores"`
	Weights      [][]float64 `json:"weights"`
}

func recordsOf(r *Result) records {
	out := records{recordsFormat, resultsVersion, map[string]taskRecords{}}
	for i := range r.Tasks {
		t := &r.Tasks[i]
		var tr taskRecords
		for _, s := range t.Samples {
			tr.DocIDs = append(tr.DocIDs, s.DocID)
			tr.Fingerprints = append(tr.Fingerprints, s.Fingerprint)
		}
		for j := range t.Metrics {
			scores, weights := t.column(j)
			tr.Scores, tr.Weights = append(tr.Scores, scores), append(tr.Weights, weights)
		}
		out.Tasks[t.Name] = tr
	}
	return out
}
