"""The dosing columns and the doses that they say."""
