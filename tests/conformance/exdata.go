package conformance

var exdataFacts = []Fact{}
