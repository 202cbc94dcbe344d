"""What compares with reference/, and so runs from a checkout only."""
