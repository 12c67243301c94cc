// Package v2 has the names of Grafana's second dashboard schema that the linter asks for, and refuses
// every dashboard that is written in it. Those here are written in the first one, which every version
// of Grafana reads.
package v2

import "errors"

type DashboardSpec struct {
	Title       string
	Editable    *bool
	Elements    map[string]DashboardElement
	Variables   []DashboardVariableKind
	Annotations []DashboardAnnotationQueryKind
}

func (*DashboardSpec) UnmarshalJSON([]byte) error {
	return errors.New("this linter is built without the second schema")
}

type DashboardElement struct{ PanelKind *DashboardPanelKind }

type DashboardPanelKind struct{ Spec DashboardPanelSpec }

type DashboardPanelSpec struct {
	Id                 float64
	Title, Description string
	Data               struct {
		Spec struct{ Queries []DashboardPanelQueryKind }
	}
	VizConfig struct {
		Group string
		Spec  struct{ FieldConfig, Options any }
	}
}

type DashboardPanelQueryKind struct {
	Spec struct {
		RefId  string
		Hidden bool
		Query  DashboardDataQueryKind
	}
}

type DashboardDataQueryKind struct {
	Group      string
	Datasource *struct{ Name *string }
	Spec       map[string]any
}

type DashboardAnnotationQueryKind struct {
	Spec struct {
		Name  string
		Query DashboardDataQueryKind
	}
}

type DashboardVariableRefresh string

const (
	DashboardVariableRefreshOnDashboardLoad    DashboardVariableRefresh = "onDashboardLoad"
	DashboardVariableRefreshOnTimeRangeChanged DashboardVariableRefresh = "onTimeRangeChanged"
)

// Variable is one kind of variable, in so far as the linter looks at it.
type Variable[Query any] struct {
	Spec struct {
		Name            string
		Label, AllValue *string
		Multi           bool
		PluginId        string
		Query           Query
		Refresh         DashboardVariableRefresh
	}
}

type DashboardVariableKind struct {
	QueryVariableKind      *Variable[DashboardDataQueryKind]
	DatasourceVariableKind *Variable[string]
	CustomVariableKind     *Variable[string]
	IntervalVariableKind   *Variable[string]
	ConstantVariableKind   *Variable[string]
	TextVariableKind       *Variable[string]
	AdhocVariableKind      *Variable[string]
	GroupByVariableKind    *Variable[string]
	SwitchVariableKind     *Variable[string]
}
