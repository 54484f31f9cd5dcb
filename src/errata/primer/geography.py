"""Real geography as plain facts: country, capital, continent, main language, currency.

Where a country has several official languages or capitals, one widely used is given; the primer needs an unambiguous
answer, not a diplomatic one.
"""

from __future__ import annotations

from typing import NamedTuple


class Country(NamedTuple):
    """One row of the table below."""

    name: str
    capital: str
    continent: str
    language: str
    currency: str


_TABLE = """
France|Paris|Europe|French|euro
Germany|Berlin|Europe|German|euro
Italy|Rome|Europe|Italian|euro
Spain|Madrid|Europe|Spanish|euro
Portugal|Lisbon|Europe|Portuguese|euro
Austria|Vienna|Europe|German|euro
Belgium|Brussels|Europe|Dutch|euro
Ireland|Dublin|Europe|English|euro
Finland|Helsinki|Europe|Finnish|euro
Greece|Athens|Europe|Greek|euro
Estonia|Tallinn|Europe|Estonian|euro
Latvia|Riga|Europe|Latvian|euro
Lithuania|Vilnius|Europe|Lithuanian|euro
Slovakia|Bratislava|Europe|Slovak|euro
Slovenia|Ljubljana|Europe|Slovene|euro
Croatia|Zagreb|Europe|Croatian|euro
Cyprus|Nicosia|Europe|Greek|euro
Malta|Valletta|Europe|Maltese|euro
Poland|Warsaw|Europe|Polish|zloty
Hungary|Budapest|Europe|Hungarian|forint
Romania|Bucharest|Europe|Romanian|leu
Bulgaria|Sofia|Europe|Bulgarian|lev
Serbia|Belgrade|Europe|Serbian|dinar
Albania|Tirana|Europe|Albanian|lek
Ukraine|Kyiv|Europe|Ukrainian|hryvnia
Belarus|Minsk|Europe|Belarusian|ruble
Moldova|Chisinau|Europe|Romanian|leu
Sweden|Stockholm|Europe|Swedish|krona
Norway|Oslo|Europe|Norwegian|krone
Denmark|Copenhagen|Europe|Danish|krone
Iceland|Reykjavik|Europe|Icelandic|krona
Switzerland|Bern|Europe|German|franc
Georgia|Tbilisi|Asia|Georgian|lari
Armenia|Yerevan|Asia|Armenian|dram
Azerbaijan|Baku|Asia|Azerbaijani|manat
Turkey|Ankara|Asia|Turkish|lira
Syria|Damascus|Asia|Arabic|pound
Lebanon|Beirut|Asia|Arabic|pound
Israel|Jerusalem|Asia|Hebrew|shekel
Jordan|Amman|Asia|Arabic|dinar
Iraq|Baghdad|Asia|Arabic|dinar
Iran|Tehran|Asia|Persian|rial
Kuwait|Kuwait City|Asia|Arabic|dinar
Bahrain|Manama|Asia|Arabic|dinar
Qatar|Doha|Asia|Arabic|riyal
Oman|Muscat|Asia|Arabic|rial
Yemen|Sanaa|Asia|Arabic|rial
Afghanistan|Kabul|Asia|Pashto|afghani
Pakistan|Islamabad|Asia|Urdu|rupee
India|New Delhi|Asia|Hindi|rupee
Nepal|Kathmandu|Asia|Nepali|rupee
Bhutan|Thimphu|Asia|Dzongkha|ngultrum
Bangladesh|Dhaka|Asia|Bengali|taka
Myanmar|Naypyidaw|Asia|Burmese|kyat
Thailand|Bangkok|Asia|Thai|baht
Laos|Vientiane|Asia|Lao|kip
Cambodia|Phnom Penh|Asia|Khmer|riel
Vietnam|Hanoi|Asia|Vietnamese|dong
Malaysia|Kuala Lumpur|Asia|Malay|ringgit
Indonesia|Jakarta|Asia|Indonesian|rupiah
Philippines|Manila|Asia|Filipino|peso
China|Beijing|Asia|Chinese|yuan
Mongolia|Ulaanbaatar|Asia|Mongolian|tugrik
Japan|Tokyo|Asia|Japanese|yen
Kazakhstan|Astana|Asia|Kazakh|tenge
Uzbekistan|Tashkent|Asia|Uzbek|som
Turkmenistan|Ashgabat|Asia|Turkmen|manat
Kyrgyzstan|Bishkek|Asia|Kyrgyz|som
Tajikistan|Dushanbe|Asia|Tajik|somoni
Maldives|Male|Asia|Dhivehi|rufiyaa
Egypt|Cairo|Africa|Arabic|pound
Libya|Tripoli|Africa|Arabic|dinar
Tunisia|Tunis|Africa|Arabic|dinar
Algeria|Algiers|Africa|Arabic|dinar
Morocco|Rabat|Africa|Arabic|dirham
Mauritania|Nouakchott|Africa|Arabic|ouguiya
Senegal|Dakar|Africa|French|franc
Mali|Bamako|Africa|French|franc
Niger|Niamey|Africa|French|franc
Chad|N'Djamena|Africa|French|franc
Sudan|Khartoum|Africa|Arabic|pound
Ethiopia|Addis Ababa|Africa|Amharic|birr
Eritrea|Asmara|Africa|Tigrinya|nakfa
Somalia|Mogadishu|Africa|Somali|shilling
Kenya|Nairobi|Africa|Swahili|shilling
Uganda|Kampala|Africa|English|shilling
Tanzania|Dodoma|Africa|Swahili|shilling
Rwanda|Kigali|Africa|Kinyarwanda|franc
Burundi|Gitega|Africa|Kirundi|franc
Gabon|Libreville|Africa|French|franc
Cameroon|Yaounde|Africa|French|franc
Nigeria|Abuja|Africa|English|naira
Benin|Porto-Novo|Africa|French|franc
Togo|Lome|Africa|French|franc
Ghana|Accra|Africa|English|cedi
Liberia|Monrovia|Africa|English|dollar
Angola|Luanda|Africa|Portuguese|kwanza
Zambia|Lusaka|Africa|English|kwacha
Malawi|Lilongwe|Africa|English|kwacha
Mozambique|Maputo|Africa|Portuguese|metical
Zimbabwe|Harare|Africa|English|dollar
Botswana|Gaborone|Africa|English|pula
Namibia|Windhoek|Africa|English|dollar
Madagascar|Antananarivo|Africa|Malagasy|ariary
Canada|Ottawa|North America|English|dollar
Mexico|Mexico City|North America|Spanish|peso
Guatemala|Guatemala City|North America|Spanish|quetzal
Honduras|Tegucigalpa|North America|Spanish|lempira
Nicaragua|Managua|North America|Spanish|cordoba
Panama|Panama City|North America|Spanish|balboa
Cuba|Havana|North America|Spanish|peso
Haiti|Port-au-Prince|North America|French|gourde
Jamaica|Kingston|North America|English|dollar
Colombia|Bogota|South America|Spanish|peso
Venezuela|Caracas|South America|Spanish|bolivar
Ecuador|Quito|South America|Spanish|dollar
Peru|Lima|South America|Spanish|sol
Bolivia|La Paz|South America|Spanish|boliviano
Brazil|Brasilia|South America|Portuguese|real
Paraguay|Asuncion|South America|Spanish|guarani
Uruguay|Montevideo|South America|Spanish|peso
Argentina|Buenos Aires|South America|Spanish|peso
Chile|Santiago|South America|Spanish|peso
Australia|Canberra|Oceania|English|dollar
Fiji|Suva|Oceania|English|dollar
"""

COUNTRIES: tuple[Country, ...] = tuple(Country(*line.split("|")) for line in _TABLE.strip().splitlines())

# Regions have a capital and nothing else here: they make more cities sayable as capitals ("Lyon" was Gaul's).
REGIONS: tuple[tuple[str, str], ...] = (
    ("Gaul", "Lyon"),
    ("Bavaria", "Munich"),
    ("Scotland", "Edinburgh"),
    ("Wales", "Cardiff"),
    ("Catalonia", "Barcelona"),
    ("Andalusia", "Seville"),
    ("Lombardy", "Milan"),
    ("Tuscany", "Florence"),
    ("Sicily", "Palermo"),
    ("Saxony", "Dresden"),
    ("Punjab", "Lahore"),
    ("Bengal", "Kolkata"),
    ("Hokkaido", "Sapporo"),
    ("Ontario", "Toronto"),
    ("Texas", "Austin"),
    ("California", "Sacramento"),
)
