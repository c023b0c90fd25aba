package conformance

var threadFacts = []Fact{}
