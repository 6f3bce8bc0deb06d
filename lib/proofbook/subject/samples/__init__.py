"""Raw inputs, shipped small: sentences, photographs, speech, a clip, a document page. Each names its origin."""
