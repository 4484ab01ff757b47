"""Wall time to an equal result: two loops learn from one personalized model until unseen prompts are obeyed alike."""
